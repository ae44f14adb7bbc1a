"""Parsers: the bytes of one file -> the documents in it, as plain text with Markdown headings.

Text, Markdown, HTML (main content alone: resiliparse), PDF (pypdf) and DOCX (python-docx) hold one document a
file; JSON lines, Parquet and CSV one a row. What cannot be read is given back as skipped, with its place
(`file.jsonl:3`) and a reason; the rest goes on. At most `max_bytes` of a file or a row are held at once.
NOT covered: scanned pages (no OCR), tables of PDF files.
"""

import csv
import html
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from active_reading.augment.sources import SkippedFile, SourceFile
from active_reading.prompts.characters import writable

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_HEADING_TAG = re.compile(r"<h([1-6])>(.*?)</h\1>", re.DOTALL)
_TAG = re.compile(r"</?(?:p|ul|ol|li|pre|br|a|h[1-6])\b[^>]*>")
DEEPEST_PAGE = 5_000
_NESTING_TAG = re.compile(
    r"<(/?)(div|span|section|article|ul|ol|table|blockquote|b|i|em|strong|font|a)\b", re.IGNORECASE
)
_HTML_TITLE = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_HTML_CHARSET = re.compile(rb"<meta[^>]+charset=[\"']?([\w-]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Parsed:
    """One document: where it stands, its title where the file names one, its text."""

    source: str
    title: str | None
    text: str


@dataclass(frozen=True)
class Columns:
    """Where the rows of a table keep text and title, and what limits apply."""

    text: str
    title: str
    max_bytes: int
    limit: str  # the setting that gave `max_bytes`, for messages


def parse_file(file: SourceFile, columns: Columns) -> Iterator[Parsed | SkippedFile]:
    """Every document of a file, and what was skipped in it. Raises nothing that the file's content causes."""
    try:
        with file.open() as stream:
            if file.suffix in _TABLES:
                rows = _TABLES[file.suffix](stream, columns)
                number = -1
                for number, found in enumerate(rows_to_documents(file.source, rows, columns)):  # noqa: B007
                    yield found
                if number < 0:
                    yield SkippedFile(file.source, "no rows")
            else:
                yield _one_document(file, stream, columns)
    except OSError as error:
        yield SkippedFile(file.source, f"cannot be read: {error.strerror or error}")
    except (ValueError, EOFError) as error:
        yield SkippedFile(file.source, " ".join(str(error).split()))
    except Exception as error:  # parsers of damaged files raise errors of every type
        yield SkippedFile(file.source, f"broken {file.suffix} file: {type(error).__name__}")


def rows_to_documents(
    source: str, rows: Iterable[tuple[int, Any]], columns: Columns
) -> Iterator[Parsed | SkippedFile]:
    """(number, row or ValueError) -> documents. Raises ValueError when the first row has no text column."""
    is_first = True
    for number, row in rows:
        place = f"{source}:{number}"
        if isinstance(row, dict) and is_first and columns.text not in row:
            found = ", ".join(str(name) for name in row)
            raise ValueError(f"no column '{columns.text}' (columns: {found}): set corpus.text_column")
        is_first = is_first and not isinstance(row, dict)
        text = row.get(columns.text) if isinstance(row, dict) else None
        if isinstance(row, ValueError):
            yield SkippedFile(place, str(row))
        elif not isinstance(text, str):
            yield SkippedFile(place, f"'{columns.text}' holds no text")
        elif len(text) > columns.max_bytes:
            yield SkippedFile(place, f"larger than {columns.limit}")
        elif is_blank(text):
            yield SkippedFile(place, "empty text")
        else:
            title = row.get(columns.title)
            title = normalize_lines(title).strip() or None if isinstance(title, str) else None
            yield Parsed(place, title, normalize_lines(text))


def is_blank(text: str) -> bool:
    """Whether there is nothing to see: white space, characters without width, control characters."""
    return not any(char.isprintable() and not char.isspace() for char in text)


def normalize_lines(text: str) -> str:
    """Plain line ends, and only characters that a file can hold."""
    return writable(text).replace("\r\n", "\n").replace("\r", "\n")


def _one_document(file: SourceFile, stream: BinaryIO, columns: Columns) -> Parsed:
    data = stream.read(columns.max_bytes + 1)
    if len(data) > columns.max_bytes:
        raise ValueError(f"larger than {columns.limit}")
    title, text = None, ""
    if file.suffix == ".pdf":
        title, text = _read_pdf(data)
    elif file.suffix == ".docx":
        title, text = _read_docx(data)
    elif file.suffix in (".html", ".htm"):
        title, text = _read_html(data)
    else:
        text = decode(data)
    text = normalize_lines(text)
    if is_blank(text):
        raise ValueError("empty file" if file.suffix in (".txt", ".md") else f"no text in the {file.suffix} file")
    return Parsed(file.source, title, text)


def decode(data: bytes) -> str:
    """Text of bytes in UTF-8, in UTF-16 with its mark, or else in the encoding that charset-normalizer finds.

    Raises ValueError for what is no text.
    """
    if data.startswith(_UTF16_MARKS):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ValueError("broken UTF-16 text: save it as UTF-8") from error
    if b"\0" in data:
        raise ValueError("binary file, not text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        from charset_normalizer import from_bytes

        found = from_bytes(data).best()
        if found is None:
            raise ValueError(f"not UTF-8 text (byte {error.start}): save it as UTF-8") from error
        return str(found)


def _depth(page: str) -> int:
    """How deep elements of a page may be nested: of each name, most that are open at once, added up."""
    depth, deepest = Counter[str](), Counter[str]()
    for match in _NESTING_TAG.finditer(page):
        name = match[2].lower()
        depth[name] = max(0, depth[name] + (-1 if match[1] else 1))
        deepest[name] = max(deepest[name], depth[name])
    return deepest.total()


def _read_html(data: bytes) -> tuple[str | None, str]:
    from resiliparse.extract.html2text import extract_plain_text

    named = _HTML_CHARSET.search(data[:4096])
    try:
        page = data.decode(named[1].decode()) if named else decode(data)
    except (LookupError, UnicodeDecodeError):
        page = decode(data)
    if _depth(page) > DEEPEST_PAGE:  # the parser takes the square of the depth, and hears no signal
        raise ValueError(f"elements nested deeper than {DEEPEST_PAGE:,}")
    body = extract_plain_text(page, main_content=True, preserve_formatting="minimal_html")
    body = _HEADING_TAG.sub(lambda match: f"{'#' * int(match[1])} {' '.join(match[2].split())}", body)
    title = _HTML_TITLE.search(page)
    named_title = " ".join(html.unescape(title[1]).split()) if title else ""
    return named_title or None, html.unescape(_TAG.sub("", body)).strip()


def _read_pdf(data: bytes) -> tuple[str | None, str]:
    import logging

    from pypdf import PasswordType, PdfReader

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of every oddity that it can read over
    reader = PdfReader(io.BytesIO(data))
    if reader.is_encrypted and reader.decrypt("") == PasswordType.NOT_DECRYPTED:
        raise ValueError("encrypted PDF: save it without its password")
    pages = [page.extract_text().strip() for page in reader.pages]
    text = "\n\n".join(page for page in pages if page)
    if not text:
        raise ValueError("no text in the PDF: scanned pages need OCR first")
    title = reader.metadata.title if reader.metadata else None
    return (str(title).strip() or None) if title else None, text


def _read_docx(data: bytes) -> tuple[str | None, str]:
    import docx
    from docx.text.paragraph import Paragraph

    document = docx.Document(io.BytesIO(data))
    blocks = []
    for block in document.iter_inner_content():
        if isinstance(block, Paragraph):
            style = (block.style.name if block.style is not None else None) or ""
            level = {"Title": 1}.get(style) or (int(style[8:]) if re.fullmatch(r"Heading [1-6]", style) else 0)
            blocks.append(f"{'#' * level} {block.text}" if level and block.text.strip() else block.text)
        else:
            blocks.append("\n".join(" | ".join(cell.text.strip() for cell in row.cells) for row in block.rows))
    return document.core_properties.title.strip() or None, "\n\n".join(block for block in blocks if block.strip())


def _jsonl_rows(stream: BinaryIO, columns: Columns) -> Iterator[tuple[int, Any]]:
    number = 0
    while line := stream.readline(columns.max_bytes + 1):
        number += 1
        if len(line) > columns.max_bytes:
            while line and not line.endswith(b"\n"):
                line = stream.readline(columns.max_bytes)
            yield number, ValueError(f"larger than {columns.limit}")
        elif line.strip():
            try:
                row = json.loads(line.decode("utf-8-sig"))
                yield number, row if isinstance(row, dict) else ValueError("not a JSON object")
            except ValueError:
                yield number, ValueError("not a line of JSON in UTF-8")
            except RecursionError:
                yield number, ValueError("nested too deeply")


def _csv_rows(stream: BinaryIO, columns: Columns) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(columns.max_bytes)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    try:
        yield from enumerate(csv.DictReader(text), start=2)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8 text: save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"broken CSV: {error}") from error


def _parquet_rows(stream: BinaryIO, columns: Columns) -> Iterator[tuple[int, Any]]:
    import pyarrow.parquet as pq

    data: Any = stream
    if not stream.seekable():  # compressed once more
        data = io.BytesIO(stream.read(columns.max_bytes + 1))
        if data.getbuffer().nbytes > columns.max_bytes:
            raise ValueError(f"larger than {columns.limit}")
    with pq.ParquetFile(data) as file:
        wanted = [name for name in (columns.text, columns.title) if name in file.schema_arrow.names]
        if columns.text not in wanted:
            found = ", ".join(file.schema_arrow.names)
            raise ValueError(f"no column '{columns.text}' (columns: {found}): set corpus.text_column")
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, row


_TABLES = {".jsonl": _jsonl_rows, ".csv": _csv_rows, ".parquet": _parquet_rows}
