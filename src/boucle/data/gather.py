"""Gathering what a path or URL means: one file, a glob, a folder, partitions, an archive; here or in any place.

What lies elsewhere is fetched into a folder of the workspace, archives are unpacked there, and both are gone when the reading
is over.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from blake3 import blake3

from boucle.core import files
from boucle.core.errors import Invalid, NotFound, Unavailable
from boucle.core.records import Dataset
from boucle.data import choice
from boucle.data.choice import is_archive
from boucle.ledger import trees
from boucle.ports import lookup
from boucle.ports.place import Entry, Place, checked, connect
from boucle.ports.place import shown as shown_url
from boucle.ports.source import Reading
from boucle.workspace import Workspace

OPTIONS = {
    "source": "the source that reads the files (`files`: a row for each, whatever it holds); found by their endings",
    "file": "the name of a column for the path of the file that a row comes from",
    "folders": "names of columns for the levels of folders, from the top",
    "union": "true when files with different columns are one table all the same",
    "new_files": "with mode append or merge: take only files that were not there the last time",
    "largest": "how many bytes an archive or compressed file may unpack to",
    "place": "options of the place where the files lie, such as its credentials",
}
_FETCHERS = 4
_MOST = 1_000_000  # files
_STALE = 7 * 86_400.0  # seconds after which what lies about was left by a process that is gone
_MAGIC = re.compile(r"[*?\[]")
_DIGITS = re.compile(r"(\d+)")

Said = Callable[[str], None]


@dataclass(slots=True)
class Gathered:
    """What was found: a table about to be read, or nothing (`empty`) when no file is new."""

    reading: Reading
    origin: str
    position: dict[str, Any] = field(default_factory=dict)  # which files were taken, to be kept with the version
    tree: str = ""  # of files that rows stand for: the manifest of their contents
    empty: bool = False


@dataclass(frozen=True, slots=True)
class _Source:
    """Files that were listed, and how to have them here."""

    what: str
    base: str  # what the paths are below
    entries: list[Entry]
    root: Path | None = None  # of local files
    place: Place | None = None  # of others
    single: bool = False
    glob: bool = False


def shown(url: str) -> str:
    """A URL or path as it may be written down: without user, password, query and fragment; paths made absolute."""
    return shown_url(url) if "://" in url else str(Path(url).expanduser().absolute())


@contextmanager
def gathered(
    ws: Workspace,
    url: str,
    options: Mapping[str, Any],
    *,
    before: Dataset | None = None,
    asked: Callable[[Any], Mapping[str, Any]] = lambda plugin: {},  # noqa: ARG005
    keep: bool = True,
    said: Said | None = None,
) -> Iterator[Gathered]:
    """What a path or URL means, ready to be read while the context is open.

    `before` is the version that new files come to (see the option `new_files`), `asked` gives further options for a source,
    `keep` says whether contents of files that become rows are stored. Raises `NotFound` or `Invalid` for what is not there or
    does not go together.
    """
    given = dict(options)
    own = {name: given.pop(name) for name in OPTIONS if name in given}
    with ExitStack() as held:
        if _is_plain(url, own):
            yield _one_file(url, str(own.get("source") or choice.source_for(url)), {**given, **_largest(own)}, asked)
            return
        if found := _lake(url, own) or choice.system(url):
            plugin = lookup.lookup("source", found)
            if own.get("place"):
                raise Invalid("option place is for files", expected=f"none with {found}")
            reading = plugin().read(_system_url(url, found), {**given, **asked(plugin)})
            table = urllib.parse.unquote(url.partition("#")[2]) or str(given.get("table") or "")
            yield Gathered(reading, shown(url) + (f"#{table}" if table else ""))
            return
        yield _files(ws, url, given, own, held, before, asked, keep, said)


def _one_file(url: str, source: str, given: dict[str, Any], asked: Callable[[Any], Mapping[str, Any]]) -> Gathered:
    plugin = lookup.lookup("source", source)
    return Gathered(plugin().read(url, _for(plugin, given, asked)), shown(url))


def _for(plugin: Any, given: Mapping[str, Any], asked: Callable[[Any], Mapping[str, Any]]) -> dict[str, Any]:
    """Options as a plugin takes them: `largest` goes to those that know it."""
    drop = {"largest"} - set(plugin.options)
    return {**{k: v for k, v in given.items() if k not in drop}, **asked(plugin)}


def _largest(own: Mapping[str, Any]) -> dict[str, Any]:
    return {"largest": own["largest"]} if own.get("largest") is not None else {}


def _is_plain(url: str, own: Mapping[str, Any]) -> bool:
    """Whether it is one local file that a source reads as it is, the most frequent case."""
    if "://" in url and not url.startswith("file://"):
        return False
    if set(own) - {"source", "largest"} or own.get("source") == choice.FILES:
        return False
    path = _local(url)
    if path.is_dir() or (_MAGIC.search(url) and not path.exists()):
        return False
    files.locate(url)  # a file that is not there is a better message than an ending that is not known
    return bool(own.get("source")) or not (is_archive(path.name) or choice.is_media(path.name))


def _local(url: str) -> Path:
    if url.startswith("file://"):
        url = urllib.parse.unquote(urllib.parse.urlsplit(url).path)
    if not url or "\0" in url:
        raise Invalid(f"{url!r} is not a path", expected="the path of a file or folder")
    return Path(url).expanduser()


def _lake(url: str, own: Mapping[str, Any]) -> str:
    """The source of a folder that is itself a table."""
    local = "://" not in url or url.startswith("file://")
    return "delta" if local and not own.get("source") and (_local(url) / "_delta_log").is_dir() else ""


def _system_url(url: str, source: str) -> str:
    return f"delta://{_local(url).absolute()}" if source == "delta" and not url.startswith("delta") else url


# --- many files -----------------------------------------------------------------------------------------------------


def _files(
    ws: Workspace,
    url: str,
    given: dict[str, Any],
    own: dict[str, Any],
    held: ExitStack,
    before: Dataset | None,
    asked: Callable[[Any], Mapping[str, Any]],
    keep: bool,
    said: Said | None,
) -> Gathered:
    found = _listed(url, own.get("place") or {}, held)
    source = str(own.get("source") or "")
    paths = [trees.escaped(e.path) for e in found.entries]
    choices = [_choice(found, paths, source)]
    entries = [found.entries[i] for i in choices[0].chosen]
    if choices[0].source not in (choice.FILES, "archives"):
        entries, empty = [e for e in entries if e.size], [trees.escaped(e.path) for e in entries if not e.size]
        for path in empty:
            choices[0].leave("empty", path)
        if not entries:
            raise Invalid(f"{found.what} is empty", expected="files with data in them")
    seen_before: dict[str, str] = (before.position if before else {}).get("files", {})
    only_new = bool(own.get("new_files"))
    known = seen_before if only_new else {}
    names = [_mark(f"{found.base}/{e.path}") for e in entries]
    marks = {n: _mark(f"{e.size} {e.version or e.modified}") for n, e in zip(names, entries, strict=True)}
    changed = [trees.escaped(e.path) for n, e in zip(names, entries, strict=True) if known.get(n, marks[n]) != marks[n]]
    entries = [e for n, e in zip(names, entries, strict=True) if n not in known]
    seen = {"files_changed_since": changed[:20]} if changed else {}
    position = {"files": {**seen_before, **{k: v for k, v in marks.items() if k not in known}}}
    position = position if only_new or seen_before else {}
    if not entries:
        return Gathered(_nothing({"files": 0, **seen}), shown(url), position, empty=True)
    largest = files.largest(own)
    items = _here(ws, found, entries, largest, held, said)
    if choices[0].source == "archives":
        items, more = _unpacked(ws, found, items, largest, held, said)
        choices.append(choice.choose([i.path for i in items], found.what, source))
        items = [items[i] for i in choices[-1].chosen]
        seen |= {"left_out": more} if more else {}
    ignored = [line for one in choices for line in one.told()]
    about = {"files": len(items), **seen, **({"ignored": ignored} if ignored else {})}
    origin = shown(url) + (f" ({len(items):,} files)" if len(items) > 1 else "")
    kind = choices[-1].source
    if kind == "archives":
        raise Invalid(f"{found.what} holds archives only", expected="files of data in it", fix="unpack it yourself")
    if kind == choice.FILES:
        return _as_rows(ws, items, given, own, about, position, origin, keep, said)
    return _as_table(items, kind, {**given, **_largest(own)}, own, about, position, origin, asked, said)


def _choice(found: _Source, paths: list[str], source: str) -> choice.Choice:
    if found.single and not source:
        path = paths[0]
        if is_archive(path):
            return choice.Choice("archives", [0])
        return choice.Choice(choice.FILES if choice.is_media(path) else choice.source_for(path), [0])
    if source and paths and all(is_archive(p) for p in paths) and source != choice.FILES:
        return choice.Choice("archives", list(range(len(paths))))
    return choice.choose(paths, found.what, source, every=found.glob or found.single)


def _as_table(
    items: list[Any],
    kind: str,
    given: dict[str, Any],
    own: dict[str, Any],
    about: dict[str, Any],
    position: dict[str, Any],
    origin: str,
    asked: Callable[[Any], Mapping[str, Any]],
    said: Said | None,
) -> Gathered:
    from boucle.data import together

    plugin = lookup.lookup("source", kind)
    options = _for(plugin, given, asked)
    reading = together.one_table(
        items,
        lambda path: plugin().read(path, options),
        file=str(own.get("file") or ("file" if kind == "text" and len(items) > 1 else "")),  # lines alone say nothing
        folders=_names(own.get("folders")),
        union=bool(own.get("union")),
        said=None if said is None else lambda n: said(f"looked at {n:,} of {len(items):,} files"),
    )
    if len(items) > 1:
        about = {"format": kind, **about}
    elif about["files"] == 1:
        about = {k: v for k, v in about.items() if k != "files"}
    reading.found = {**about, **reading.found}
    return Gathered(reading, origin, position)


def _as_rows(
    ws: Workspace,
    items: list[Any],
    given: dict[str, Any],
    own: dict[str, Any],
    about: dict[str, Any],
    position: dict[str, Any],
    origin: str,
    keep: bool,
    said: Said | None,
) -> Gathered:
    from boucle.data import media

    if given:
        raise Invalid(
            f"option {next(iter(given))!r} means nothing to files that are no tables", expected=", ".join(OPTIONS)
        )
    table = media.table(ws, items, keep=keep, folders=_names(own.get("folders")), largest=files.largest(own), said=said)
    found_kinds = dict(sorted(table.kinds.items(), key=lambda pair: -pair[1]))
    about = {"format": choice.FILES, **about, "kinds": found_kinds, **({"more": table.more} if table.more else {})}
    table.reading.found = about
    return Gathered(table.reading, origin, position, table.tree)


def _nothing(found: dict[str, Any]) -> Reading:
    from boucle.core.frames import Frame
    from boucle.core.schema import Schema

    return Reading(Frame(Schema(), lambda _: iter(()), 0), found)


def _names(value: Any) -> list[str]:
    names = value.split(",") if isinstance(value, str) else list(value or [])
    if any(not isinstance(n, str) or not n for n in names) or len(set(names)) < len(names):
        raise Invalid(f"option folders={value!r}", expected="different names, with commas between them")
    return names


def _mark(text: str) -> str:
    return str(blake3(text.encode("utf-8", "surrogateescape")).hexdigest()[:16])


# --- listing --------------------------------------------------------------------------------------------------------


def _listed(url: str, options: Mapping[str, Any], held: ExitStack) -> _Source:
    if "://" in url and not url.startswith("file://"):
        return _listed_elsewhere(url, options, held)
    if options:
        raise Invalid("option place is for files elsewhere", expected="none for a local path")
    path = _local(url)
    if path.is_dir():
        return _Source(str(path), str(path.absolute()), _sorted(_walk(path)), path)
    if path.exists() or not _MAGIC.search(url):
        files.locate(url)
        entry = next(_walk(path.parent, [path.name]))
        return _Source(str(path), str(path.parent.absolute()), [entry], path.parent, single=True)
    top, pattern = _split(str(path))
    if not Path(top).is_dir():
        raise NotFound(f"no folder {top}", expected="the folder that the glob begins with", fix="check the path")
    matching = _sorted(e for e in _walk(Path(top), hidden="/." in f"/{pattern}") if _fits(pattern, e.path))
    if not matching:
        raise NotFound(f"no file matches {url}", expected=f"files below {top}", fix="** stands for any folders")
    return _Source(url, str(Path(top).absolute()), matching, Path(top), glob=True)


def _listed_elsewhere(url: str, options: Mapping[str, Any], held: ExitStack) -> _Source:
    parts = urllib.parse.urlsplit(url)
    web = parts.scheme in ("http", "https")
    what = shown(url)
    path = urllib.parse.unquote(parts.path) if web else url[len(parts.scheme) + 3 + len(parts.netloc) :]
    if not web and _MAGIC.search(path):
        top, pattern = _split(path)
        place = _held(f"{parts.scheme}://{parts.netloc}{top}", options, held)
        prefix = _MAGIC.split(pattern, maxsplit=1)[0].rpartition("/")[2] if "/" not in pattern else ""
        matching = _sorted(e for e in _safe(place.list(prefix)) if _fits(pattern, e.path))
        if not matching:
            raise NotFound(f"no file matches {what}", expected="a glob of files that are there")
        return _Source(what, shown(f"{parts.scheme}://{parts.netloc}{top}"), matching, place=place, glob=True)
    place = _held(url, options, held)
    can_list = "list" in place.capabilities
    if not (can_list and path.endswith("/")):
        try:
            entry = replace(place.entry(""), path=_name(url))
            return _Source(what, what.rpartition("/")[0], [entry], place=place, single=True)
        except NotFound:
            if not can_list:
                raise
    entries = _sorted(e for e in _safe(place.list()) if not _hidden(e.path))
    if not entries:
        raise NotFound(f"no file or folder {what}", expected="files to read", fix="check the path")
    return _Source(what, what.rstrip("/"), entries, place=place)


def _held(url: str, options: Mapping[str, Any], held: ExitStack) -> Place:
    place = connect(url, options)
    held.callback(place.close)
    return place


def _safe(entries: Iterator[Entry]) -> Iterator[Entry]:
    """Other systems may give any names: those that are no paths are no files of ours."""
    for entry in entries:
        try:
            yield replace(entry, path=checked(entry.path))
        except Invalid:
            continue


def _sorted(entries: Iterator[Entry]) -> list[Entry]:
    """In the order people would expect: part-2 before part-10."""
    found = []
    for entry in entries:
        found.append(entry)
        if len(found) > _MOST:
            raise Invalid(f"more than {_MOST:,} files", expected="fewer at once", fix="name a part of them by a glob")
    return sorted(found, key=lambda e: [int(p) if i % 2 else p for i, p in enumerate(_DIGITS.split(e.path))])


def _hidden(path: str) -> bool:
    """Names that tools give to what is no data: .git, _SUCCESS, __MACOSX."""
    return any(part.startswith((".", "_")) and "=" not in part for part in path.split("/"))


def _walk(root: Path, names: Sequence[str] = (), *, hidden: bool = False) -> Iterator[Entry]:
    for folder, below, found in os.walk(root, onerror=_unreadable) if not names else [(str(root), [], names)]:
        below[:] = sorted(b for b in below if hidden or names or not _hidden(b))
        for name in found:
            if not names and not hidden and _hidden(name):
                continue
            path = Path(folder, name)
            try:
                about = path.stat()
            except OSError:  # a link to nothing, or removed since it was listed
                continue
            if names or path.is_file():
                below_root = path.relative_to(root).as_posix()
                yield Entry(below_root, about.st_size, f"{about.st_mtime_ns:x}", about.st_mtime)


def _unreadable(error: OSError) -> None:
    raise Unavailable(f"{error.filename} cannot be read: {error.strerror}", fix="check who may read it")


def _split(path: str) -> tuple[str, str]:
    """The folder that a glob begins with, and the rest."""
    parts = path.split("/")
    at = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    return "/".join(parts[:at]) or ("/" if path.startswith("/") else "."), "/".join(parts[at:])


def _fits(pattern: str, path: str) -> bool:
    """Whether a path matches a glob: * and ? within a name, [...] a character of a set, ** any folders."""
    return re.fullmatch(_regex(pattern), path) is not None


def _regex(pattern: str) -> str:
    out, i = "", 0
    while i < len(pattern):
        char = pattern[i]
        end = pattern.find("]", i + 2) if char == "[" else -1
        if pattern.startswith("**/", i):
            out, i = out + "(?:.*/)?", i + 3
        elif pattern.startswith("**", i):
            out, i = out + ".*", i + 2
        elif char == "*":
            out, i = out + "[^/]*", i + 1
        elif char == "?":
            out, i = out + "[^/]", i + 1
        elif end > 0:
            inside = pattern[i + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out, i = out + f"[{'^' + inside[1:] if inside[0] in '!^' else inside}]", end + 1
        else:
            out, i = out + re.escape(char), i + 1
    return out


# --- having them here -----------------------------------------------------------------------------------------------


def _name(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc or "file"


def _here(
    ws: Workspace, found: _Source, entries: Sequence[Entry], largest: int, held: ExitStack, said: Said | None
) -> list[Any]:
    """The files, fetched where they lie elsewhere."""
    from boucle.data.together import Item

    if found.root is not None:
        return [Item(trees.escaped(e.path), found.root / e.path, e.size, e.modified) for e in entries]
    place, folder = found.place, _scratch(ws, held)
    assert place is not None
    done = [0, 0]

    def fetch(numbered: tuple[int, Entry]) -> Item:
        number, entry = numbered
        path = trees.escaped(entry.path)
        local = folder / f"{number}-{re.sub(r'[^A-Za-z0-9._-]+', '_', path.rpartition('/')[2])[-80:]}"
        size = 0
        with local.open("xb") as out:
            for piece in place.read("" if found.single else entry.path):
                size += len(piece)
                if largest and size > largest:
                    raise Invalid(f"{path} has more than {largest:,} bytes", expected="no more, as was said")
                try:
                    out.write(piece)
                except OSError as error:
                    raise Unavailable(f"{local} cannot be written: {error.strerror}", fix="make room") from error
        done[0] += 1
        done[1] += size
        if said is not None:
            said(f"fetched {done[0]:,} of {len(entries):,} files, {done[1] / 1e6:,.1f} MB")
        return Item(path, local, size, entry.modified, temporary=True)

    if len(entries) == 1 or place.name == "fsspec":  # of which not every protocol may be used by several threads
        return [fetch(pair) for pair in enumerate(entries)]
    with ThreadPoolExecutor(_FETCHERS) as pool:
        try:
            return list(pool.map(fetch, enumerate(entries)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _scratch(ws: Workspace, held: ExitStack) -> Path:
    """A folder that is gone at the end; so are those of processes that were killed long ago."""
    for old in ws.folder("tmp").glob("gather*"):
        if old.stat().st_mtime < time.time() - _STALE:
            shutil.rmtree(old, ignore_errors=True)
    return Path(held.enter_context(tempfile.TemporaryDirectory(prefix="gather", dir=ws.folder("tmp"))))


def _unpacked(
    ws: Workspace, found: _Source, items: Sequence[Any], largest: int, held: ExitStack, said: Said | None
) -> tuple[list[Any], list[str]]:
    from boucle.data.archives import unpack
    from boucle.data.together import Item, named

    out: list[Item] = []
    skipped: list[str] = []
    for archive in items:
        told = None if said is None else lambda n, path=archive.path: said(f"unpacked {n / 1e6:,.1f} MB of {path}")
        with named(archive):
            unpacked = unpack(archive.local, _scratch(ws, held), largest=largest, said=told)
        before = f"{archive.path}/" if len(items) > 1 else ""
        out += [
            Item(before + m.path, m.local, m.size, m.modified, temporary=True)
            for m in unpacked.members
            if not _hidden(m.path)
        ]
        skipped += [f"{archive.path}: {line}" for line in unpacked.skipped]
    full = [i for i in out if i.size]
    if not full:
        why = f": {'; '.join(skipped)}" if skipped else ""
        raise Invalid(f"{found.what} holds no files to read{why}", expected="an archive of files")
    return full, skipped
