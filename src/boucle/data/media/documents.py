"""What documents say: title, text, lines, pages. Text is bounded, whatever a file unpacks to."""

from __future__ import annotations

import contextlib
import re
import time
from html.parser import HTMLParser
from typing import Any, BinaryIO

Facts = dict[str, Any]

LONGEST = 20_000  # characters of a text that a row holds
_READ = 16 << 20  # bytes of a document that are looked at
_PAGES, _SECONDS = 2_000, 20.0  # of a PDF
_UNPACKED = 8 << 20  # bytes that one stream of a PDF may unpack to; reading more of them takes minutes
_LIMITS = (
    "zlib_maximum_output_length", "lzw_maximum_output_length", "run_length_maximum_output_length",
    "array_based_stream_maximum_output_length", "brotli_maximum_output_length",
)  # fmt: skip
_SILENT = frozenset({"script", "style", "template", "noscript", "head", "svg"})
_BLOCKS = frozenset(
    {"p", "br", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "section", "article", "table", "ul", "ol", "pre", "td"}
)  # fmt: skip

# What pypdf lets through when a document is not what it says.
_WRONG = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OSError, RecursionError, ArithmeticError, MemoryError,
    AssertionError, RuntimeError, EOFError, ImportError,
)  # fmt: skip


def plain(file: BinaryIO, size: int, found: Facts, longest: int, *, markdown: bool = False) -> str:
    """Put text, lines, encoding and, of Markdown, title into `found`; returns what is wrong with the file, or ''."""
    data = file.read(_READ)
    found["encoding"], text = decoded(data)
    found["lines"] = text.count("\n") + (not text.endswith("\n") and bool(text))
    if markdown:
        found["title"] = _markdown_title(text)
    found["text"] = text[:longest]
    return f"only the first {_READ >> 20} MiB were looked at" if size > len(data) else ""


def decoded(data: bytes) -> tuple[str, str]:
    """The encoding of a text, and the text: by its mark, else UTF-8, else Windows-1252, in which every byte means something."""
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return name.removesuffix("-sig"), data.decode(name, "replace")
    try:
        return "utf-8", data.decode()
    except UnicodeDecodeError as error:
        if (
            len(data) == _READ and error.start >= len(data) - 3
        ):  # a character that the end of what was read goes through
            return "utf-8", data.decode(errors="ignore")
        return "cp1252", data.decode("cp1252", "replace")


def _markdown_title(text: str) -> str | None:
    front = re.match(r"---\n(.{0,4000}?)\n---\n", text, re.DOTALL)
    named = re.search(r"^title:\s*[\"']?(.+?)[\"']?\s*$", front[1], re.MULTILINE) if front else None
    heading = re.search(r"^#\s+(.{1,500}?)\s*#*\s*$|^(\S.{0,500})\n=+\s*$", text[:100_000], re.MULTILINE)
    return named[1] if named else (heading[1] or heading[2]) if heading else None


def html(file: BinaryIO, size: int, found: Facts, longest: int) -> str:
    """Put title, text and encoding into `found`; returns what is wrong with the file, or ''."""
    data = file.read(_READ)
    declared = re.search(rb"<meta[^>]{0,200}charset=[\"']?([A-Za-z0-9_-]{1,40})", data[:4096], re.IGNORECASE)
    name, text = decoded(data)
    if declared and name == "cp1252":
        with contextlib.suppress(LookupError):
            name, text = declared[1].decode().lower(), data.decode(declared[1].decode(), "replace")
    parser = _Html(longest)
    for at in range(0, len(text), 1 << 16):
        parser.feed(text[at : at + (1 << 16)])
        if parser.full:
            break
    found |= {"encoding": name, "text": parser.text(), "title": parser.title() or None}
    return f"only the first {_READ >> 20} MiB were looked at" if size > len(data) else ""


class _Html(HTMLParser):
    """Collects the title, and what is to be read of a page."""

    def __init__(self, longest: int) -> None:
        super().__init__(convert_charrefs=True)
        self.longest, self.length, self.full = longest, 0, False
        self._text: list[str] = []
        self._title: list[str] = []
        self._silent = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  the parser's signature
        if tag == "title":
            self._in_title = True
        elif tag in _SILENT:
            self._silent += 1
        elif tag == "body":
            self._silent = 0
        elif tag in _BLOCKS:
            self._text.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._in_title = False
        elif tag in _SILENT:
            self._silent = max(0, self._silent - 1)
        elif tag in _BLOCKS:
            self._text.append("\n")

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self._title.append(data[:1000])
        elif not self._silent:
            self._text.append(data)
            self.length += len(data)
            self.full = self.length > 4 * self.longest

    def title(self) -> str:
        return " ".join("".join(self._title).split())[:1000]

    def text(self) -> str:
        lines = (" ".join(line.split()) for line in "".join(self._text).split("\n"))
        return "\n".join(line for line in lines if line)[: self.longest]


def pdf(file: BinaryIO, found: Facts, longest: int) -> str:
    """Put pages, title and text into `found`; returns what is wrong with the file, or ''. Raises `ImportError` without pypdf."""
    import logging

    import pypdf
    from pypdf import errors

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    until = time.monotonic() + _SECONDS
    parts: list[str] = []
    limits: dict[str, Any] = dict.fromkeys(_LIMITS, _UNPACKED)
    with pypdf.apply_configuration(None, **limits):
        try:
            reader = pypdf.PdfReader(file)
            if reader.is_encrypted and not reader.decrypt(""):
                return "it is encrypted"
            found["pages"] = len(reader.pages)
            title = reader.metadata.title if reader.metadata else None
            found["title"] = _clean(str(title), 1000) or None if title else None
            for page in reader.pages[:_PAGES]:
                parts.append(page.extract_text())
                if sum(map(len, parts)) >= longest or time.monotonic() > until:
                    break
        except (errors.PyPdfError, *_WRONG) as error:
            found["text"] = _clean("\n".join(parts), longest) or None
            return f"it is damaged: {type(error).__name__}: {str(error)[:200]}"
    found["text"] = _clean("\n".join(parts), longest)
    return ""


def _clean(text: str, longest: int) -> str:
    """Text as it may be stored: some fonts map to halves of characters."""
    return text[:longest].encode("utf-8", "replace").decode().replace("\0", "")
