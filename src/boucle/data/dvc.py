"""DVC repositories: what they track becomes dataset versions, and a version becomes what `dvc pull` fetches.

Formats (DVC 2 and 3): `.dvc` files and `dvc.lock` are YAML; an object lies at `files/md5/ab/cdef...` (before DVC 3 at
`ab/cdef...`) of the cache and of each remote, named by the MD5 of its bytes, or by that of a JSON list with `.dir` behind it
for a folder.
"""

from __future__ import annotations

import configparser
import hashlib
import io
import json
import os
import posixpath
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from boucle.core.errors import Corrupt, Invalid, NotFound, Unavailable
from boucle.core.records import Dataset
from boucle.core.refs import Ref, check_name
from boucle.data.choice import source_for
from boucle.data.ingest import ingest
from boucle.ledger import datasets, trees
from boucle.ports import place as places
from boucle.ports.lookup import missing_extra
from boucle.workspace import Workspace

_PIECE = 1 << 20
_LARGEST_LIST = 1 << 30  # bytes of a folder's list
_DIGITS = frozenset("0123456789abcdef")


@dataclass(frozen=True, slots=True)
class Output:
    """Something that a repository tracks: its path below the root, and the object that holds it."""

    path: str
    md5: str
    folder: bool
    legacy: bool  # hashed by DVC before 3, which took text with line ends of Windows for text without
    description: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a repository: the versions with whether each is new, and what was left out, with the reason."""

    done: list[tuple[Dataset, bool]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def from_dvc(
    ws: Workspace,
    repository: Path,
    *,
    paths: Sequence[str] = (),
    revision: str = "",
    history: bool = False,
    remote: str = "",
    prefix: str = "",
    tables: bool = False,
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Imported:
    """Make what a DVC repository tracks into dataset versions: of its working tree, of a Git revision, or, with `history`, of
    every commit that changed something, the oldest first.

    Objects come from the repository's cache, else from its default remote or the one named `remote`; `options` go to the
    place where that is (credentials, region). Each is checked against its MD5. Datasets are named by the paths, with `prefix`
    in front. With `tables`, a single file that a source reads becomes a table; everything else is kept as files. Raises
    `NotFound` for an object that is nowhere and `Corrupt` for one that is not what its name says.
    """
    root = root_of(repository)
    shelf = _Shelf(root, remote, options or {})
    result = Imported()
    revisions = _history(root) if history else [revision]
    seen: dict[str, str] = {}
    for at in revisions:
        outputs, skipped = tracked(root, at)
        unknown = [p for p in paths if p not in {o.path for o in outputs}]
        if unknown and not history:
            raise NotFound.named("tracked path", unknown[0], [o.path for o in outputs])
        result.skipped.extend(s for s in skipped if s not in result.skipped)
        for output in outputs:
            if (paths and output.path not in paths) or seen.get(output.path) == output.md5:
                continue
            seen[output.path] = output.md5
            if progress is not None:
                progress(output.path)
            result.done.append(_take_in(ws, shelf, output, prefix, at, tables=tables))
    if not result.done and not result.skipped:
        raise NotFound(
            f"{root} tracks nothing", expected=".dvc files or a dvc.lock", fix="look at `dvc list . -R --dvc-only`"
        )
    return result


def tracked(root: Path, revision: str = "") -> tuple[list[Output], list[tuple[str, str]]]:
    """What a repository tracks in its working tree or at a Git revision, and what is left out of it, with the reason."""
    outputs: dict[str, Output] = {}
    skipped: list[tuple[str, str]] = []
    files = list(_files(root, revision))
    uncached = {
        path for name, text in files if name.endswith("dvc.yaml") for path in _uncached(name, _yaml(text, name))
    }
    for name, text in files:
        if name.endswith("dvc.yaml"):
            continue
        parsed = _yaml(text, name)
        stages = parsed.get("stages", {}) if name.endswith("dvc.lock") else {"": parsed}
        if not isinstance(stages, dict):
            raise Invalid(f"{name}: stages is no mapping", expected="a file that DVC wrote")
        for stage in stages.values():
            below = posixpath.join(
                posixpath.dirname(name), str(stage.get("wdir", "")) if isinstance(stage, dict) else ""
            )
            for given in stage.get("outs", []) if isinstance(stage, dict) else []:
                found = _output(given, below, str(parsed.get("desc", "")), name)
                if isinstance(found, Output) and found.path in uncached:
                    found = found.path, "it is not kept in DVC's cache"
                if isinstance(found, Output):
                    outputs[found.path] = found
                else:
                    skipped.append(found)
    return [outputs[p] for p in sorted(outputs)], skipped


def _uncached(name: str, pipeline: dict[str, Any]) -> Iterator[str]:
    """What stages make and DVC is told not to keep, which `dvc.lock` does not say."""
    stages = pipeline.get("stages", {})
    for stage in stages.values() if isinstance(stages, dict) else ():
        for role in ("outs", "metrics", "plots"):
            for given in (stage.get(role) or []) if isinstance(stage, dict) else []:
                if isinstance(given, dict):
                    below = posixpath.join(posixpath.dirname(name), str(stage.get("wdir", "")))
                    yield from (
                        posixpath.normpath(posixpath.join(below, str(path)))
                        for path, how in given.items()
                        if isinstance(how, dict) and how.get("cache") is False
                    )


def _output(given: Any, below: str, description: str, name: str) -> Output | tuple[str, str]:
    if not isinstance(given, dict) or not isinstance(given.get("path"), str):
        raise Invalid(f"{name}: an output has no path", expected="a file that DVC wrote")
    path = posixpath.normpath(posixpath.join(below, given["path"]))
    if "://" in given["path"] or path.startswith(("../", "/")):
        return path, "it lies outside of the repository"
    if given.get("cache") is False:
        return path, "it is not kept in DVC's cache"
    md5 = given.get("md5")
    if not isinstance(md5, str):
        return path, "it has no MD5 (cloud-versioned, or not run yet)"
    plain = md5.removesuffix(".dir")
    if len(plain) != 32 or not _DIGITS.issuperset(plain):
        raise Invalid(f"{name}: {md5!r} is no MD5", expected="32 hexadecimal digits")
    return Output(path, plain, md5 != plain, given.get("hash") != "md5", str(given.get("desc") or description))


def _take_in(
    ws: Workspace, shelf: _Shelf, output: Output, prefix: str, revision: str, *, tables: bool
) -> tuple[Dataset, bool]:
    name = check_name(prefix + output.path.replace("/", "."), "dataset name")
    source = f"dvc:{shelf.root}/{output.path}" + (f"@{revision[:12]}" if revision else "")
    tags = {"dvc": output.md5 + (".dir" if output.folder else ""), **({"commit": revision} if revision else {})}
    with tempfile.TemporaryDirectory(dir=ws.folder("tmp"), prefix="dvc-") as folder:
        if not output.folder:
            file = shelf.fetch(output.md5, Path(folder) / posixpath.basename(output.path), legacy=output.legacy)
            if tables and _is_table(output.path):
                done = ingest(ws, file, name, description=output.description, tags=tags, evolve=True, origin=source)
                return done.dataset, done.new
            tree = trees.add(ws.blobs, [(posixpath.basename(output.path), file)])
        else:
            tree = trees.add(ws.blobs, _members(shelf, output, Path(folder)))
        return datasets.commit_files(ws, name, tree, source=source, description=output.description, tags=tags)


def _is_table(path: str) -> bool:
    try:
        return bool(source_for(path))
    except Invalid:
        return False


def _members(shelf: _Shelf, output: Output, folder: Path) -> Iterator[tuple[str, Path]]:
    listed = shelf.fetch(output.md5 + ".dir", folder / "list", legacy=False)
    if listed.stat().st_size > _LARGEST_LIST:
        raise Invalid(f"the list of {output.path} is larger than {_LARGEST_LIST >> 20} MiB", expected="a list of files")
    try:
        members = [(str(m["relpath"]), str(m["md5"])) for m in json.loads(listed.read_bytes())]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Corrupt(f"the list of {output.path} does not parse: {error}", expected="JSON that DVC wrote") from None
    for relpath, md5 in members:
        if len(md5) != 32 or not _DIGITS.issuperset(md5):
            raise Corrupt(f"the list of {output.path} names {md5!r}", expected="an MD5")
        file = shelf.fetch(md5, folder / "member", legacy=output.legacy)
        yield relpath, file
        file.unlink()


class _Shelf:
    """The objects of a repository: its caches, then its remote."""

    def __init__(self, root: Path, remote: str, options: Mapping[str, Any]) -> None:
        self.root = root
        config = _config(root)
        cache = config.get("cache", {}).get("dir", "")
        self._caches = [root / ".dvc" / cache if cache else root / ".dvc" / "cache"]
        self._url = remote_url(root, remote, needed=bool(remote))
        self._options = options
        self._place: places.Place | None = None

    def fetch(self, name: str, target: Path, *, legacy: bool) -> Path:
        """A copy of an object, checked."""
        for path in _places(name):
            for cache in self._caches:
                if (cache / path).is_file():
                    return _kept(name, (cache / path).as_posix(), _pieces(cache / path), target, legacy=legacy)
        if self._url:
            if self._place is None:
                self._place = places.connect(self._url, self._options)
            for path in _places(name):
                try:
                    return _kept(name, path, self._place.read(path), target, legacy=legacy)
                except NotFound:
                    continue
        raise NotFound(
            f"the object {name} is neither in DVC's cache nor in its remote",
            expected="it to have been pushed",
            fix="`dvc push` where it was made, or `dvc fetch` in the repository",
        )


def _places(name: str) -> tuple[str, str]:
    return f"files/md5/{name[:2]}/{name[2:]}", f"{name[:2]}/{name[2:]}"


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _kept(name: str, where: str, pieces: Iterator[bytes], target: Path, *, legacy: bool) -> Path:
    """Bytes in a file; raises `Corrupt` when they do not have the MD5 of their name."""
    plain, unix, last = hashlib.md5(usedforsecurity=False), hashlib.md5(usedforsecurity=False), b""
    with target.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            plain.update(piece)
            if legacy:  # line ends of Windows count as one character, also where a piece ends between the two
                joined = last + piece
                last = joined[-1:] if joined.endswith(b"\r") else b""
                unix.update((joined[:-1] if last else joined).replace(b"\r\n", b"\n"))
    unix.update(last)
    expected = name.removesuffix(".dir")
    if plain.hexdigest() != expected and not (legacy and unix.hexdigest() == expected):
        target.unlink()
        raise Corrupt(
            f"{where} is not what its name says", expected=f"bytes with the MD5 {expected}", fix="dvc fetch it again"
        )
    return target


def to_dvc(
    ws: Workspace,
    ref: Ref | str,
    repository: Path,
    *,
    path: str = "",
    remote: str = "",
    options: Mapping[str, Any] | None = None,
) -> tuple[Path, int]:
    """Push a version to the remote of a DVC repository, and track it there: `dvc pull` then fetches it.

    A version of files becomes a folder, or the file it consists of; a table becomes a Parquet file. `path` says where in the
    repository (its name by default). Returns the `.dvc` file, and how many objects were sent; those that the remote has are
    not. The `.dvc` file is written last.
    """
    dataset = datasets.resolve(ws, ref)
    root = root_of(repository)
    place = places.connect(remote_url(root, remote, needed=True), options or {})
    single = dataset.type == "table"
    path = posixpath.normpath(path or dataset.name + (".parquet" if single else ""))
    if path.startswith(("../", "/")) or path in (".", ".."):
        raise Invalid(f"{path!r} lies outside of the repository", expected="a path below its root")
    if path.partition("/")[0] in (".git", ".dvc"):
        raise Invalid(f"{path!r} is where Git and DVC keep their own", expected="a path beside these folders")
    with tempfile.TemporaryDirectory(dir=ws.folder("tmp"), prefix="dvc-") as folder:
        there = {e.path for e in place.list("files/md5/")} if "list" in place.capabilities else set[str]()
        sent = _Sent(place, there)
        if single:
            from boucle.data.export import export

            file = Path(folder) / "table.parquet"
            export(ws, dataset.ref, file)
            md5, size, count = sent.file(file), file.stat().st_size, 1
        else:
            listed, size = [], 0
            for entry in trees.files(ws.blobs, dataset.manifest):
                if entry.mode == "l":
                    raise Invalid(
                        f"{entry.path} is a link, which DVC does not keep", expected="files", fix="leave it out"
                    )
                file = Path(folder) / "file"
                with trees.open_file(ws.blobs, entry) as source, file.open("wb") as target:
                    while piece := source.read(_PIECE):
                        target.write(piece)
                listed.append({"md5": sent.file(file), "relpath": entry.path})
                size += entry.size
            listed.sort(key=lambda m: m["relpath"])
            body = json.dumps(listed, sort_keys=True).encode()
            md5, count = hashlib.md5(body, usedforsecurity=False).hexdigest() + ".dir", len(listed)
            sent.object(md5, body)
    place.close()
    lines = ["outs:", f"- md5: {md5}", f"  size: {size}", *([] if single else [f"  nfiles: {count}"]), "  hash: md5",
             f"  path: {json.dumps(posixpath.basename(path))}", "meta:", "  boucle:", f"    version: {json.dumps(dataset.key)}",
             f"    digest: {dataset.digest}", ""]  # fmt: skip
    file = root / f"{path}.dvc"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _ignore(file.parent / ".gitignore", "/" + posixpath.basename(path))
        draft = file.with_name(f".{file.name}.{os.getpid()}")
        draft.write_text("\n".join(lines), encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise Unavailable(
            f"cannot write {file}: {error.strerror}", expected="a repository that may be written to"
        ) from error
    return file, sent.count


class _Sent:
    """Sends objects that are not there yet."""

    def __init__(self, place: places.Place, there: set[str]) -> None:
        self._place, self._there, self.count = place, there, 0

    def file(self, file: Path) -> str:
        with file.open("rb") as opened:
            md5 = hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        self.object(md5, file)
        return md5

    def object(self, name: str, data: bytes | Path) -> None:
        path = _places(name)[0]
        if path not in self._there:
            self._place.write(path, data)
            self._there.add(path)
            self.count += 1


def _ignore(file: Path, line: str) -> None:
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    if line not in text.splitlines():
        file.write_text(text + ("" if text.endswith("\n") or not text else "\n") + line + "\n", encoding="utf-8")


def remote_url(root: Path, name: str = "", *, needed: bool = False) -> str:
    """The URL of a remote of a repository, the default one without a name; empty when there is none and none is needed."""
    config = _config(root)
    name = name or config.get("core", {}).get("remote", "")
    known = {
        section.partition('"')[2].rstrip("\"'"): values for section, values in config.items() if "remote" in section
    }
    if not name or name not in known:
        if needed:
            raise NotFound.named("DVC remote", name or "(default)", known, fix="dvc remote add --default NAME URL")
        return ""
    if known[name].get("version_aware", "").lower() == "true" or known[name].get("worktree", "").lower() == "true":
        raise Invalid(f"the remote {name} is cloud-versioned", expected="a remote that keeps objects by their MD5")
    url = known[name].get("url", "")
    return url if "://" in url else str((root / ".dvc" / url).resolve())


def _config(root: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        for file in ("config", "config.local"):
            path = root / ".dvc" / file
            if path.exists():
                parser.read_file(io.StringIO(path.read_text(encoding="utf-8")), str(path))
    except (configparser.Error, UnicodeDecodeError) as error:
        raise Invalid(f"{root}/.dvc/config does not parse: {error}", expected="a file that DVC wrote") from None
    return {section: dict(parser.items(section)) for section in parser.sections()}


def root_of(repository: Path) -> Path:
    """The root of the DVC repository that a folder lies in."""
    for folder in (repository.resolve(), *repository.resolve().parents):
        if (folder / ".dvc").is_dir():
            return folder
    raise NotFound(f"{repository} is not in a DVC repository", expected="a folder with .dvc/", fix="dvc init")


def _files(root: Path, revision: str) -> Iterator[tuple[str, str]]:
    """The files that say what is tracked, by their paths."""
    if revision:
        listed = _git(root, "ls-tree", "-r", "-z", "--name-only", revision, "--", ".").split("\0")
        for name in sorted(n for n in listed if _tells(n)):
            yield name, _git(root, "show", f"{revision}:./{name}")
        return
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in (".dvc", ".git", ".boucle"))
        for name in sorted(names):
            path = Path(folder, name)
            if _tells(name):
                yield path.relative_to(root).as_posix(), path.read_text(encoding="utf-8")


def _tells(name: str) -> bool:
    base = posixpath.basename(name)
    return base in ("dvc.lock", "dvc.yaml") or (base.endswith(".dvc") and base != ".dvc")


def _history(root: Path) -> list[str]:
    told = _git(root, "log", "--reverse", "--format=%H", "--", "*.dvc", "*dvc.lock").split()
    if not told:
        raise NotFound(f"no commit of {root} tracks anything", expected="a Git repository with committed .dvc files")
    return told


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=True)
    except FileNotFoundError:
        raise Unavailable("git is not installed", expected="it, to read older revisions") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise NotFound(f"git: {said[:300]}", expected="a revision of that repository") from None
    return done.stdout.decode(errors="surrogateescape")


def _yaml(text: str, name: str) -> dict[str, Any]:
    try:
        import yaml
    except ImportError:
        raise missing_extra("PyYAML", "dvc", "standard") from None
    try:
        parsed = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise Invalid(f"{name} does not parse: {error}", expected="a file that DVC wrote") from None
    if not isinstance(parsed, dict):
        raise Invalid(f"{name} is no mapping", expected="a file that DVC wrote")
    return parsed
