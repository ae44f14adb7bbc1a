"""Ingest: which files give a document, which are skipped and why."""

import hashlib
import os
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from active_reading.augment.ingest import IngestSettings, read_documents
from active_reading.augment.sources import SkippedFile, find_files


def write_files(root: Path, files: dict[str, str | bytes]) -> IngestSettings:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return IngestSettings(path=str(root))


def read(root: Path, files: dict[str, str | bytes]) -> tuple[pl.DataFrame, list[SkippedFile]]:
    return read_documents(write_files(root, files))


def test_a_document_carries_its_text_source_title_and_length(tmp_path):
    documents, skipped = read(tmp_path, {"birds/grey_owl.txt": "The owl sleeps.\n"})
    assert documents.rows(named=True) == [
        {
            "document_id": hashlib.blake2b(b'["The owl sleeps.\\n"]', digest_size=8).hexdigest(),
            "source": "birds/grey_owl.txt",
            "title": "grey owl",
            "text": "The owl sleeps.\n",
            "num_chars": 16,
        }
    ]
    assert skipped == []


def test_the_columns_have_types_that_every_stage_can_count_on(tmp_path):
    documents, _ = read(tmp_path, {"a.txt": "Owl."})
    assert documents.schema == {
        "document_id": pl.String,
        "source": pl.String,
        "title": pl.String,
        "text": pl.String,
        "num_chars": pl.Int64,
    }


def test_nested_folders_are_read_and_other_or_hidden_files_are_not(tmp_path):
    files = {
        "a.md": "A",
        "deep/er/b.TXT": "B",
        "c.exe": "C",
        "questions.jsonl": '{"question": "Q?", "answers": ["C"]}',
        "txt": "D",
        ".hidden.txt": "E",
        ".git/f.txt": "F",
        "deep/.cache/g.md": "G",
        "deep/h.md.bak": "H",
    }
    documents, skipped = read(tmp_path, files)
    assert documents["source"].to_list() == ["a.md", "deep/er/b.TXT"]
    assert skipped == []


def test_the_output_of_a_study_inside_the_corpus_is_no_document(tmp_path):
    (tmp_path / "runs" / "owls" / ".locks").mkdir(parents=True)
    found, _ = read(tmp_path, {"a.txt": "An owl.", "runs/owls/README.md": "A card.", "runs/note.txt": "A note."})
    assert found["source"].to_list() == ["a.txt", "runs/note.txt"]
    globbed, _ = read_documents(IngestSettings(path=str(tmp_path / "**" / "*")))
    assert globbed["source"].to_list() == ["a.txt", "runs/note.txt"]


def test_a_hidden_folder_above_the_corpus_does_not_hide_it(tmp_path):
    documents, _ = read(tmp_path / ".cache" / "corpus", {"a.txt": "A"})
    assert documents["source"].to_list() == ["a.txt"]


UNREADABLE = {
    "zero byte": (b"The owl\0sleeps.", "binary file, not text"),
    "picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "binary file, not text"),
    "utf-16 without its mark": ("The owl sleeps.".encode("utf-16-le"), "binary file, not text"),
    "half of utf-16": ("The owl".encode("utf-16")[:-1], "broken UTF-16 text: save it as UTF-8"),
    "empty": (b"", "empty file"),
    "white space": (" \n\t\r\n\u00a0\u2003".encode(), "empty file"),
    "nothing to see": ("\u200b\u2060 \u00ad\x1b\n".encode(), "empty file"),
    "byte order mark alone": (b"\xef\xbb\xbf", "empty file"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_file_that_is_not_text_is_skipped_with_its_reason_and_the_rest_is_read(tmp_path, kind):
    content, reason = UNREADABLE[kind]
    documents, skipped = read(tmp_path, {"bad.txt": content, "good.txt": "The owl sleeps."})
    assert skipped == [SkippedFile("bad.txt", reason)]
    assert documents["source"].to_list() == ["good.txt"]


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_corpus_without_any_document_is_an_error_that_says_why(tmp_path, kind):
    content, reason = UNREADABLE[kind]
    with pytest.raises(ValueError, match="no readable document in") as caught:
        read(tmp_path, {"bad.txt": content})
    assert f"bad.txt: {reason}" in str(caught.value)


def test_a_byte_order_mark_and_windows_or_old_mac_line_ends_make_no_difference(tmp_path):
    plain = "# Owl\n\nThe owl sleeps.\n"
    windows = b"\xef\xbb\xbf" + plain.replace("\n", "\r\n").encode()
    documents, skipped = read(tmp_path, {"a.md": plain, "b.md": windows, "c.md": plain.replace("\n", "\r")})
    assert documents["text"].to_list() == [plain]
    assert skipped == [SkippedFile("b.md", "same text as a.md"), SkippedFile("c.md", "same text as a.md")]


def test_the_same_text_twice_is_one_document_and_the_first_source_stands_for_it(tmp_path):
    documents, skipped = read(tmp_path, {"z/a.txt": "Owl.", "b.txt": "Owl.", "c.txt": "Owl. "})
    assert documents["source"].to_list() == ["b.txt", "c.txt"]
    assert skipped == [SkippedFile("z/a.txt", "same text as b.txt")]


@settings(deadline=None)
@given(
    texts=st.lists(
        st.text(st.characters(exclude_characters="\r\0", codec="utf-8"), min_size=1), min_size=2, unique=True
    )
)
def test_ids_and_text_depend_on_the_content_alone(tmp_path_factory, texts):
    """The same texts under other names, in another order: the same ids."""
    texts = [f"owl {text}" for text in texts]
    frames = []
    for names in (range(len(texts)), reversed(range(len(texts)))):
        root = tmp_path_factory.mktemp("corpus")
        documents, skipped = read(
            root, {f"{name:03}/{name}.txt": text for name, text in zip(names, texts, strict=True)}
        )
        assert skipped == []
        frames.append(dict(documents.select("document_id", "text").iter_rows()))
    assert frames[0] == frames[1]
    assert sorted(frames[0].values()) == sorted(texts)


def test_the_title_is_the_first_heading_or_else_the_file_name(tmp_path):
    files = {
        "heading.md": "Intro.\n\n## The grey owl\n\n# Later\n",
        "first.txt": "# Owl & Sons\nText.",
        "no_heading-here.md": "The owl sleeps. It is not #1.",
        "bare_marks.md": "##\n\nThe owl wakes.\n",
        "marks_then_words.md": "#\n\n# Owls\n",
        "dotted.name.txt": "The owl eats.",
        "code.md": "```\n# pip install owl\n```\n\n# Owls by hand\n",
        "tag.txt": "#owlday at the fair",
        "sharp.md": "# C#\n",
        "closed.md": "# Owls ##\n",
    }
    documents, _ = read(tmp_path, files)
    assert dict(documents.select("source", "title").iter_rows()) == {
        "heading.md": "The grey owl",
        "first.txt": "Owl & Sons",
        "no_heading-here.md": "no heading here",
        "bare_marks.md": "bare marks",
        "marks_then_words.md": "Owls",
        "dotted.name.txt": "dotted.name",
        "code.md": "Owls by hand",
        "tag.txt": "tag",
        "sharp.md": "C#",
        "closed.md": "Owls",
    }


def test_a_file_name_that_is_not_utf8_is_read_like_any_other(tmp_path):
    write_files(tmp_path, {"a.txt": "The owl sleeps."})
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"The owl drinks.")
    documents, skipped = read_documents(IngestSettings(path=str(tmp_path)))
    assert dict(documents.select("source", "title").iter_rows()) == {"a.txt": "a", "caf\ufffd.txt": "caf\ufffd"}
    assert skipped == []


def test_a_single_file_is_a_corpus(tmp_path):
    write_files(tmp_path, {"deep/owl.md": "Owl.", "deep/other.md": "Other."})
    documents, _ = read_documents(IngestSettings(path=str(tmp_path / "deep" / "owl.md")))
    assert documents.select("source", "text").rows() == [("owl.md", "Owl.")]


def test_a_single_file_of_another_kind_is_refused(tmp_path):
    write_files(tmp_path, {"owl.exe": "Owl."})
    with pytest.raises(ValueError, match=r"owl\.exe is not a document: documents are \.txt, \.md, .*, each also"):
        read_documents(IngestSettings(path=str(tmp_path / "owl.exe")))


def test_a_missing_folder_and_a_folder_without_text_name_the_folder(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere does not exist: give a folder, a file, a glob or a URL"):
        read_documents(IngestSettings(path=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"has no document: documents are \.txt") as caught:
        read(tmp_path, {"owl.exe": "Owl.", ".hidden.txt": "Owl."})
    assert str(tmp_path) in str(caught.value)


def test_a_home_folder_is_written_with_a_tilde(tmp_path, monkeypatch):
    write_files(tmp_path, {"corpus/owl.txt": "Owl."})
    monkeypatch.setenv("HOME", str(tmp_path))
    documents, _ = read_documents(IngestSettings(path="~/corpus"))
    assert documents["source"].to_list() == ["owl.txt"]


def test_a_file_over_the_limit_is_skipped_and_one_at_the_limit_is_read(tmp_path):
    settings = write_files(tmp_path, {"at.txt": "o" * 2000, "over.txt": "o" * 2001})
    documents, skipped = read_documents(settings.model_copy(update={"max_megabytes": 0.002}))
    assert documents["source"].to_list() == ["at.txt"]
    assert skipped == [SkippedFile("over.txt", "larger than corpus.max_megabytes=0.002")]


def deny(monkeypatch, module, name: str, denied: Path) -> None:
    """Make one function refuse one path, as the system does (even where tests run as root)."""
    real = getattr(module, name)

    def refuse(path, *arguments, **options):
        if Path(path) == denied:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(module, name, refuse)


def test_a_file_that_may_not_be_read_is_skipped_with_the_systems_reason(tmp_path, monkeypatch):
    settings = write_files(tmp_path, {"secret.txt": "Owl.", "open.txt": "Other owl."})
    deny(monkeypatch, Path, "open", tmp_path / "secret.txt")
    documents, skipped = read_documents(settings)
    assert documents["source"].to_list() == ["open.txt"]
    assert skipped == [SkippedFile("secret.txt", "cannot be read: Permission denied")]


def test_a_folder_that_may_not_be_listed_is_skipped_with_the_systems_reason(tmp_path, monkeypatch):
    settings = write_files(tmp_path, {"deep/secret/a.txt": "Owl.", "deep/open.txt": "Other owl."})
    deny(monkeypatch, os, "scandir", tmp_path / "deep" / "secret")
    documents, skipped = read_documents(settings)
    assert documents["source"].to_list() == ["deep/open.txt"]
    assert skipped == [SkippedFile("deep/secret", "cannot be read: Permission denied")]


def test_a_corpus_folder_that_may_not_be_listed_says_so_instead_of_being_empty(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.txt": "Owl."})
    deny(monkeypatch, os, "scandir", tmp_path)
    with pytest.raises(ValueError, match="cannot be read: Permission denied") as caught:
        find_files(str(tmp_path))
    assert str(tmp_path) in str(caught.value)


def test_links_and_special_files_stop_nothing(tmp_path):
    settings = write_files(tmp_path, {"real.txt": "Owl."})
    (tmp_path / "broken.txt").symlink_to(tmp_path / "gone.txt")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    documents, skipped = read_documents(settings)
    assert documents["text"].to_list() == ["Owl."]
    assert {file.source: file.reason for file in skipped} == {
        "broken.txt": "cannot be read: No such file or directory",
        "pipe.txt": "not a regular file",
        "real.txt": "same text as link.txt",
    }


def test_a_link_to_a_folder_is_followed_once(tmp_path):
    write_files(tmp_path, {"elsewhere/owl.txt": "The owl sleeps.", "corpus/heron.txt": "The heron fishes."})
    for name in ("birds", "birds again"):
        (tmp_path / "corpus" / name).symlink_to(tmp_path / "elsewhere")
    documents, skipped = read_documents(IngestSettings(path=str(tmp_path / "corpus")))
    assert documents["source"].to_list() == ["birds/owl.txt", "heron.txt"]
    assert skipped == []


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="at least 1 character"):
        IngestSettings(path="")


def test_a_changed_file_is_a_new_document_in_place_of_the_old_one(tmp_path):
    before, _ = read(tmp_path, {"a.txt": "The owl sleeps.", "b.txt": "The heron fishes."})
    after, _ = read(tmp_path, {"a.txt": "The owl wakes."})
    assert after.select("source", "text").rows() == [("a.txt", "The owl wakes."), ("b.txt", "The heron fishes.")]
    assert after["document_id"][0] != before["document_id"][0]
    assert after["document_id"][1] == before["document_id"][1]
