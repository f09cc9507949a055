"""Which source reads what: by the scheme of a URL, by the ending of a file, and of a folder of many kinds of files by what most
of them are."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from boucle.core import files
from boucle.core.errors import Invalid, MissingExtra
from boucle.ports import lookup
from boucle.ports.place import shown
from boucle.ports.stream import is_stream

FILES = "files"  # named as a source: a row for each file, whatever it holds

_MEDIA = frozenset({
    ".png", ".jpg", ".jpeg", ".jpe", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ico", ".svg", ".heic", ".heif", ".avif",
    ".jp2", ".psd", ".wav", ".mp3", ".flac", ".ogg", ".oga", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".wma", ".mid",
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp",
})  # fmt: skip
_TEXTS = frozenset({".txt", ".md", ".text"})
_DOCUMENTS = _TEXTS | {
    ".pdf", ".htm", ".html", ".xhtml", ".markdown", ".rst", ".rtf", ".doc", ".docx", ".odt", ".ppt", ".pptx", ".odp", ".epub",
    ".tex", ".eml",
}  # fmt: skip
_NOTES = re.compile(
    r"(readme|licen[cs]e|copying|notice|provenance|citation|changelog|contributing|authors|attribution|"
    r"about|thumbs\.db|desktop\.ini|(md5|sha1|sha256|sha512)(sums?)?)([._-].*)?",
    re.IGNORECASE,
)
_IDX = re.compile(r"-idx\d-ubyte(\.gz)?$")  # how the files of MNIST and its kin are named
# The source of an ending and a scheme, so that no other is loaded to find it, nor needs to be installed.
_USUAL = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".tab": "csv", ".json": "jsonl", ".jsonl": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet", ".pq": "parquet", ".xml": "xml", ".xlsx": "excel", ".xls": "excel", ".avro": "avro",
    ".npy": "arrays", ".npz": "arrays", ".orc": "orc", ".arrow": "arrow", ".feather": "arrow", ".log": "text", ".md": "text",
}  # fmt: skip
_SCHEMES = {
    "postgresql": "postgres", "mysql": "mysql", "mariadb": "mysql", "mongodb": "mongo", "redis": "redis", "rediss": "redis",
    "sqlite": "sqlite", "duckdb": "duckdb", "delta": "delta", "iceberg": "iceberg", "sqlalchemy": "sqlalchemy", "api": "api",
}  # fmt: skip
_PLACES = frozenset({
    "file", "http", "https", "s3", "gs", "gcs", "az", "abfs", "abfss", "azure", "sftp", "ssh", "ftp", "ftps", "webdav", "dav",
    "davs", "hdfs", "memory", "smb",
})  # fmt: skip
_MANY = 10  # times as many files of a kind make the others things that lie beside them
_SHOWN = 5


@dataclass(slots=True)
class Choice:
    """The source for some files, which of them (by position), and why the others are left out."""

    source: str
    chosen: list[int] = field(default_factory=list)
    ignored: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, why: str, path: str) -> None:
        self.ignored.setdefault(why, []).append(path)

    def told(self) -> list[str]:
        """What was left out, in words."""
        said = []
        for why, paths in self.ignored.items():
            more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
            said.append(f"{', '.join(paths[:_SHOWN])}{more} ({why})")
        return said


def source_for(url: str) -> str:
    """The name of the source plugin for a path or URL, by its scheme or ending; raises `Invalid` when none reads it."""
    ending, known = files.ending(url), dict[str, str]()
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if found := system(url):
        return found
    if not ending and _IDX.search(url):
        return "arrays"
    for name in _ordered(_USUAL.get(ending)):
        try:
            plugin = lookup.lookup("source", name)
        except MissingExtra:
            if name == _USUAL.get(ending):
                raise
            continue
        for suffix in plugin.suffixes:
            known[suffix] = name
            if suffix == ending:
                return name
    where = shown(url) if scheme else url
    raise Invalid(
        f"no source reads files that end in {ending!r}" if ending else f"{where} has no ending to choose a source by",
        expected=f"one of {', '.join(sorted(known))}, also compressed (.gz, .bz2, .zst, .xz)",
        fix="name the source with the option source, such as source=csv",
    )


def system(url: str) -> str:
    """The source plugin of the scheme of a URL, or '' when none has it; raises `MissingExtra` for one that is not installed."""
    if "://" not in url:
        return ""
    scheme = url.partition("://")[0].lower()
    if scheme in _PLACES:
        return ""
    usual = _SCHEMES.get(scheme) or _SCHEMES.get(scheme.partition("+")[0], scheme.partition("+")[0])
    for name in _ordered(usual):
        try:
            if any(fnmatch.fnmatchcase(scheme, known) for known in lookup.lookup("source", name).schemes):
                return name
        except MissingExtra:
            if name == usual:
                raise
    if is_stream(url):
        raise Invalid(f"{scheme}:// is a stream", expected="files or rows", fix="boucle data stream URL --name NAME")
    return ""


def usually_reads(source: str) -> str:
    """The endings and URLs of one of our sources without loading it, in words; empty for another's."""
    urls = [f"{scheme}://" for scheme, name in _SCHEMES.items() if name == source]
    return " ".join([*(ending for ending, name in _USUAL.items() if name == source), *urls])


def _ordered(first: str | None) -> Iterator[str]:
    names = lookup.names("source")
    if first in names:
        yield str(first)
    yield from (n for n in names if n != first)


def is_note(path: str) -> bool:
    """Whether a file says something of the data beside it: README.md, LICENSE; authors.csv is data."""
    name = path.rpartition("/")[2]
    return bool(_NOTES.fullmatch(name)) and files.ending(name) in _DOCUMENTS | {"", ".cff", ".bib", ".ini", ".original"}


def is_archive(path: str) -> bool:
    """Whether a name ends like that of an archive: .zip, .tar, .tar.gz, .tgz and the like."""
    return path.lower().endswith((".zip", ".tgz", ".tbz2", ".txz", ".tzst")) or files.ending(path) == ".tar"


def is_media(path: str) -> bool:
    """Whether a file is no table, by its ending: an image, sound, video or document."""
    return files.ending(path) in _MEDIA | _DOCUMENTS - _TEXTS


def choose(paths: Sequence[str], what: str, source: str = "", *, every: bool = False) -> Choice:
    """Of the files of a folder, glob or archive those that are read, and by which source; of empty ones nothing is known here.

    Notes (README, LICENSE and the like) beside data are left out, as are few files of one kind beside many of another (with
    `every` none are that match a glob). Raises `Invalid` naming what can be said when files of several formats could be meant.
    """
    if source:
        return _told(paths, source, every=every)
    tables: dict[str, list[int]] = {}
    media: list[int] = []
    documents: list[int] = []
    notes: list[int] = []
    archives: list[int] = []
    others: list[int] = []
    for i, path in enumerate(paths):
        name, ending = path.rpartition("/")[2], files.ending(path)
        if is_note(name) and not every:
            notes.append(i)
        elif is_archive(name):
            archives.append(i)
        elif ending in _MEDIA:
            media.append(i)
        elif ending in _DOCUMENTS:
            documents.append(i)
        elif found := _table_source(ending):
            tables.setdefault(found, []).append(i)
        else:
            others.append(i)
    rows = sum(map(len, tables.values()))
    told = media + [i for i in documents if files.ending(paths[i]) not in _TEXTS]
    if not rows and not media and not documents and archives:
        return _made("archives", archives, [("a note", notes), ("another kind of file", others)], paths)
    if len(told) >= _MANY * rows and (media or documents or others or not rows):
        beside = [i for group in tables.values() for i in group]
        left = [("a note", notes), ("a table beside the files", beside)]
        rest = others + archives
        if len(told) >= _MANY * max(1, len(rest)):
            return _made(FILES, media + documents, [*left, ("another kind of file", rest)], paths)
        if not media and not rest:  # a folder of texts: what is a note elsewhere is one of them
            documents, left = documents + notes, left[1:]
        if not (media or documents or rest):
            raise Invalid(f"{what} has no files", expected="files of data", fix="check the path")
        return _made(FILES, media + documents + rest, left, paths)
    if len(tables) > 1:
        raise _several(paths, what, tables, told)
    found, chosen = next(iter(tables.items()))
    left = [("a note", notes), ("an archive", archives), ("not a table", media + documents + others)]
    return _made(found, chosen, left, paths)


def _made(source: str, chosen: list[int], beside: Sequence[tuple[str, list[int]]], paths: Sequence[str]) -> Choice:
    choice = Choice(source, sorted(chosen))
    for why, left in beside:
        for i in left:
            choice.leave(why, paths[i])
    return choice


def _told(paths: Sequence[str], source: str, *, every: bool) -> Choice:
    """The files that a named source reads: those with its endings, or all when none has."""
    if source == FILES:
        return Choice(FILES, list(range(len(paths))))
    suffixes = lookup.lookup("source", source).suffixes
    fitting = [i for i, p in enumerate(paths) if files.ending(p) in suffixes]
    if every or not fitting:
        plain = [i for i, p in enumerate(paths) if every or not is_note(p)]
        return _made(source, plain, [("a note", [i for i in range(len(paths)) if i not in set(plain)])], paths)
    notes = {i for i in fitting if is_note(paths[i])}
    chosen = [i for i in fitting if i not in notes] or fitting
    left = [i for i in range(len(paths)) if i not in set(chosen)]
    return _made(source, chosen, [(f"not for source={source}", left)], paths)


@functools.cache
def _table_source(ending: str) -> str:
    try:
        return source_for(f"x{ending}") if ending else ""
    except Invalid:
        return ""


def _several(paths: Sequence[str], what: str, tables: dict[str, list[int]], told: Sequence[int]) -> Invalid:
    shown = [
        f"{len(found)} for {name} ({paths[found[0]]}{', ...' if found[1:] else ''})" for name, found in tables.items()
    ]
    if told:
        shown.append(f"{len(told)} that are no tables ({paths[told[0]]}{', ...' if told[1:] else ''})")
    return Invalid(
        f"{what} holds files of several formats: {'; '.join(shown)}",
        expected="files of one format",
        fix=f"name one file, or a glob, or say which: --option {' or '.join(f'source={n}' for n in tables)}"
        + (", or source=files for a row per file" if told else ""),
    )
