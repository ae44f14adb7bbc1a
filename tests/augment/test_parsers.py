"""Parsers: every format gives its text, and damage is skipped with its place and a reason."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tracemalloc

import docx
import fsspec
import polars as pl
import pyarrow as pa
import pypdf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.ingest import IngestSettings, check_corpus, read_documents
from active_reading.augment.parsers import decode

PAGE = """<html><head><title>The grey &amp; the brown owl</title><script>var owl = 1;</script></head><body>
<nav><a href="/">Home</a> <a href="/about">About us</a></nav><main><h1>Owls</h1>
<p>The owl sleeps in the old oak all day, and it hunts mice &lt;and voles&gt; by night.</p>
<h2>Food <b>of owls</b></h2>
<p>An owl eats three mice a night, and in winter it takes small birds as well.</p></main>
<footer>Copyright 2020. <a href="/imprint">Imprint</a></footer></body></html>"""


def pdf(text: str, password: str = "") -> bytes:
    """A PDF of one page, written by hand: pypdf itself draws no text."""
    content = f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] /Contents 4 0 R"
        b" /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"xref\n0 6\n0000000000 65535 f \n%strailer\n<< /Size 6 /Root 1 0 R >>\n" % table
    data += b"startxref\n%d\n%%%%EOF\n" % data.index(b"xref\n")
    if not password:
        return data
    writer, out = pypdf.PdfWriter(clone_from=io.BytesIO(data)), io.BytesIO()
    writer.encrypt(password, algorithm="RC4-128")
    writer.write(out)
    return out.getvalue()


def word(*blocks: tuple[str, str]) -> bytes:
    document, out = docx.Document(), io.BytesIO()
    for style, text in blocks:
        document.add_paragraph(text, style=style)
    table = document.add_table(rows=1, cols=2)
    table.cell(0, 0).text, table.cell(0, 1).text = "mice", "3"
    document.save(out)
    return out.getvalue()


def read(folder, files, **options):
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    documents, skipped = read_documents(IngestSettings(path=str(folder), **options))
    return documents, {file.source: file.reason for file in skipped}


def test_a_page_gives_its_main_content_with_headings_and_without_navigation(tmp_path):
    documents, _ = read(tmp_path, {"owl.html": PAGE})
    assert documents["title"].to_list() == ["The grey & the brown owl"]
    assert documents["text"][0].split("\n\n") == [
        "# Owls",
        "The owl sleeps in the old oak all day, and it hunts mice <and voles> by night.",
        "## Food of owls",
        "An owl eats three mice a night, and in winter it takes small birds as well.",
    ]


def test_a_pdf_gives_the_text_of_its_pages(tmp_path):
    documents, _ = read(tmp_path, {"grey_owl.pdf": pdf("The owl sleeps in 1912.")})
    assert documents.select("title", "text").rows() == [("grey owl", "The owl sleeps in 1912.")]


def test_a_word_file_gives_its_paragraphs_headings_and_tables_in_order(tmp_path):
    blocks = (("Heading 1", "Owls"), ("Normal", "The owl sleeps."), ("Heading 2", "Food"))
    documents, _ = read(tmp_path, {"owl.docx": word(*blocks)})
    assert documents["text"].to_list() == ["# Owls\n\nThe owl sleeps.\n\n## Food\n\nmice | 3"]
    assert documents["title"].to_list() == ["Owls"]


DAMAGED = {
    "broken.pdf": (b"%PDF-1.4\nno objects at all", "broken .pdf file"),
    "locked.pdf": (pdf("Owl.", password="secret"), "encrypted PDF: save it without its password"),
    "scan.pdf": (pdf(""), "no text in the PDF: scanned pages need OCR first"),
    "broken.docx": (b"PK\x03\x04 no zip", "broken .docx file"),
    "scripts.html": ("<html><body><script>go()</script><style>p {}</style></body></html>", "no text in the .html"),
    "broken.parquet": (b"PAR1 nothing PAR1", ""),
    "cut.txt.gz": (gzip.compress(b"The owl sleeps. " * 99)[:-20], "Compressed file ended"),
    "wrong.txt.gz": (b"The owl sleeps.", "cannot be read: Not a gzipped file"),
    "wrong.txt.xz": (b"The owl sleeps.", "broken .txt file: LZMAError"),
    "table.csv": (
        "body,heading\nThe owl.,Owl\n",
        "no column 'text' (columns: body, heading): set",
    ),
    "table.jsonl": ('{"body": "The owl."}\n', "no column 'text' (columns: body): set corpus.text_column"),
    "bad.csv": (b"text\n\xff\xfe\xfa\n", "not UTF-8 text: save it as UTF-8"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_skipped_with_its_reason_and_the_rest_is_read(tmp_path, name):
    content, reason = DAMAGED[name]
    documents, skipped = read(tmp_path, {name: content, "good.txt": "The owl sleeps."})
    assert documents["source"].to_list() == ["good.txt"]
    assert list(skipped) == [name]
    assert reason in skipped[name]
    assert "\n" not in skipped[name]


def test_a_bad_line_of_json_is_skipped_with_its_number_and_the_rest_goes_on(tmp_path):
    lines = [
        json.dumps({"text": "The owl sleeps.", "title": "Owl"}),
        "{not json",
        "",
        "[1]",
        json.dumps({"text": 7}),
        json.dumps({"title": "no text"}),
        json.dumps({"text": " \u200b"}),
        json.dumps({"text": "x" * 3000}),
        json.dumps({"text": "# Heron\nIt fishes.\r\n", "title": None}),
    ]
    documents, skipped = read(tmp_path, {"birds.jsonl": "\n".join(lines)}, max_megabytes=0.002)
    assert documents.select("source", "title", "text").rows() == [
        ("birds.jsonl:1", "Owl", "The owl sleeps."),
        ("birds.jsonl:9", "Heron", "# Heron\nIt fishes.\n"),
    ]
    assert skipped == {
        "birds.jsonl:2": "not a line of JSON in UTF-8",
        "birds.jsonl:4": "not a JSON object",
        "birds.jsonl:5": "'text' holds no text",
        "birds.jsonl:6": "'text' holds no text",
        "birds.jsonl:7": "empty text",
        "birds.jsonl:8": "larger than corpus.max_megabytes=0.002",
    }


def test_what_is_nested_too_deeply_is_skipped_and_the_rest_is_read(tmp_path):
    rows = ['{"text": "An owl."}', '{"text": ' + "[" * 100_000, '{"text": "Moss."}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "page.html").write_text("<div>" * 100_000 + "An oak.")
    documents, skipped = read_documents(IngestSettings(path=str(tmp_path)))
    assert documents["text"].to_list() == ["An owl.", "Moss."]
    assert {each.source: each.reason for each in skipped} == {
        "rows.jsonl:2": "nested too deeply",
        "page.html": "elements nested deeper than 5,000",
    }


def test_a_table_without_rows_is_named(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "empty.csv").write_text("text\n")
    (tmp_path / "owl.txt").write_text("An owl.")
    _, skipped = read_documents(IngestSettings(path=str(tmp_path)))
    assert {each.source: each.reason for each in skipped} == {"empty.csv": "no rows", "empty.jsonl": "no rows"}


def test_half_a_surrogate_pair_in_json_is_replaced_and_the_row_kept(tmp_path):
    lines = ['{"text": "An owl \\ud800 sleeps.", "title": "\\udc00wl"}', '{"text": "Moss \\ud83d\\ude00 grows."}']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    documents, skipped = read_documents(IngestSettings(path=str(tmp_path)))
    assert documents["text"].to_list() == ["An owl \ufffd sleeps.", "Moss \U0001f600 grows."]
    assert documents["title"][0] == "\ufffdwl"
    assert not skipped


def test_tables_give_a_document_a_row_from_the_columns_named(tmp_path):
    rows = {"body": ["The owl sleeps.", "The heron\nfishes."], "head": ["Owl", "Heron"], "size": [1, 2]}
    out = io.StringIO()
    csv.writer(out).writerows([list(rows), *zip(*rows.values(), strict=True)])
    pl.DataFrame(rows).write_parquet(tmp_path / "b.parquet")
    columns = {"text_column": "body", "title_column": "head"}
    documents, skipped = read(tmp_path, {"a.csv": out.getvalue()}, **columns)
    assert documents.select("source", "title", "text").rows() == [
        ("a.csv:2", "Owl", "The owl sleeps."),
        ("a.csv:3", "Heron", "The heron\nfishes."),
    ]
    assert skipped == {"b.parquet:1": "same text as a.csv:2", "b.parquet:2": "same text as a.csv:3"}


def test_compressed_files_are_read_as_what_they_hold(tmp_path):
    text = "# Owl {}\n\nThe owl sleeps.\n"
    row = (json.dumps({"text": "The heron fishes."}) + "\n").encode()
    table = io.BytesIO()
    pl.DataFrame({"text": ["The crane dances."]}).write_parquet(table)
    files = {
        "a.md.gz": gzip.compress(text.format("a").encode()),
        "b.txt.bz2": bz2.compress(text.format("b").encode()),
        "c.md.xz": lzma.compress(text.format("c").encode()),
        "d.md.zst": pa.Codec("zstd").compress(text.format("d").encode(), asbytes=True),
        "e.jsonl.gz": gzip.compress(row),
        "f.parquet.gz": gzip.compress(table.getvalue()),
        "g.docx.gz": gzip.compress(word(("Normal", "The wren sings."))),
    }
    documents, skipped = read(tmp_path, files)
    assert skipped == {}
    assert documents["title"].to_list() == ["Owl a", "Owl b", "Owl c", "Owl d", "e", "f", "g"]


def test_a_file_too_large_is_skipped_in_bounded_memory_also_when_it_hides_in_a_small_one(tmp_path):
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(200_000_000)
    (tmp_path / "bomb.txt.gz").write_bytes(gzip.compress(b"o" * 50_000_000))
    tracemalloc.start()
    documents, skipped = read(tmp_path, {"good.txt": "The owl sleeps."}, max_megabytes=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert skipped == dict.fromkeys(["bomb.txt.gz", "large.txt"], "larger than corpus.max_megabytes=2")
    assert documents["source"].to_list() == ["good.txt"]
    assert peak < 20e6


MIXED = {
    "utf-8": "\u05d4\u05d9\u05e0\u05e9\u05d5\u05e3 \u05d9\u05e9\u05df. \u0627\u0644\u0628\u0648\u0645\u0629\u061f",
    "utf-16": "\u732b\u5934\u9e70\u5728\u7761\u89c9\u3002\u5b83\u5728\u591c\u91cc\u6355\u730e\u3002",
    "utf-8-sig": "La chouette dort.",
    "cp1252": "Der B\u00e4r schl\u00e4ft im Wald, und die Eule ruft. Sch\u00f6ne Gr\u00fc\u00dfe an alle.",
}


def test_mixed_encodings_and_scripts_in_one_folder_are_all_read(tmp_path):
    files = {f"{name}.txt": text.encode(name) for name, text in MIXED.items()}
    documents, skipped = read(tmp_path, files)
    assert skipped == {}
    assert set(documents["text"]) == set(MIXED.values())


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_text_or_an_error_of_one_line(data):
    message = ""
    try:
        assert isinstance(decode(data), str)
    except ValueError as error:
        message = str(error)
    assert "\n" not in message


def test_globs_and_urls_are_corpora(tmp_path):
    read(tmp_path, {"a.txt": "The owl.", "b.txt": "The heron.", "c.md": "The crane."})
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "d.txt").write_text("The wren.")

    def sources(path):
        return read_documents(IngestSettings(path=path))[0]["source"].to_list()

    assert sources(f"{tmp_path}/*.txt") == ["a.txt", "b.txt"]
    assert sources(f"{tmp_path}/**/*.txt") == ["a.txt", "b.txt", "deep/d.txt"]
    assert sources(f"file://{tmp_path}") == ["a.txt", "b.txt", "c.md", "deep/d.txt"]
    assert sources(f"file://{tmp_path}/*.md") == ["c.md"]
    assert sources(f"file://{tmp_path}/deep/d.txt") == ["d.txt"]
    with pytest.raises(ValueError, match=r"no document matches .*\.pdf"):
        check_corpus(IngestSettings(path=f"{tmp_path}/*.pdf"))


def test_a_bucket_is_read_like_a_folder():
    files = fsspec.filesystem("memory")
    for name, data in {"x/a.md.gz": gzip.compress(b"# Owl\n"), "b.txt": b"Heron.", ".git/c.txt": b"Wren."}.items():
        files.pipe(f"/birds/{name}", data)
    pl.DataFrame({"text": ["The crane dances."]}).write_parquet(table := io.BytesIO())
    files.pipe("/birds/rows.parquet", table.getvalue())
    documents, skipped = read_documents(IngestSettings(path="memory://birds"))
    assert documents.select("source", "title").rows() == [
        ("b.txt", "b"),
        ("rows.parquet:1", "rows"),
        ("x/a.md.gz", "Owl"),
    ]
    assert skipped == []
    with pytest.raises(ValueError, match="corpus memory://nowhere has no document"):
        check_corpus(IngestSettings(path="memory://nowhere"))
    with pytest.raises(ValueError, match="corpus nothing://x cannot be listed: "):
        check_corpus(IngestSettings(path="nothing://x"))


def test_a_hugging_face_data_set_is_a_corpus(tmp_path):
    import datasets

    rows = datasets.Dataset.from_dict({"context": ["The owl sleeps.", "The heron fishes."], "title": ["Owl", ""]})
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "files").mkdir()
    rows.to_parquet(tmp_path / "files" / "train.parquet")
    for name in ("saved", "files"):
        found = IngestSettings(path=f"hf:{tmp_path / name}", text_column="context")
        documents, skipped = read_documents(found)
        assert documents.select("source", "title").rows() == [(f"{name}:1", "Owl"), (f"{name}:2", name)]
        assert skipped == []
    with pytest.raises(ValueError, match=r"no column 'text' \(columns: context, title\): set corpus.text_column"):
        read_documents(IngestSettings(path=f"hf:{tmp_path / 'files'}"))
    with pytest.raises(ValueError, match="data set 'nowhere/at all' .split train. cannot be opened: "):
        read_documents(IngestSettings(path="hf:nowhere/at all"))
