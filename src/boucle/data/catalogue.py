"""The catalogue: finding datasets by what is said about them and what is in them, and saying more about them."""

from __future__ import annotations

import heapq
import json
import operator
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from boucle.core.errors import Invalid, NotFound, Refused
from boucle.core.records import Dataset
from boucle.core.refs import Ref
from boucle.core.schema import Schema, evolve
from boucle.core.where import Where, field
from boucle.ledger import datasets, journal
from boucle.measure.quality import Profile

if TYPE_CHECKING:
    from boucle.workspace import Workspace

DERIVED = frozenset(
    {"bad_lines", "sealed", "grown"}
)  # tags that follow from the content, and are not for people to change
_MANY, _NEARLY, _FAR = 10, 0.97, 50  # rows, share of the rows, times the width of the middle half
_LONGEST = 100  # characters of a value that can be found
_INDEX = "catalogue.tsv"

# How much it says that a word is found here: when it is the whole of it, when it begins with it, when it is somewhere in it.
_WEIGHTS = {
    "name": (100, 70, 50), "column": (40, 30, 20), "tag": (36, 26, 18), "description": (30, 16, 12),
    "owner": (24, 14, 10), "licence": (24, 14, 10), "value": (20, 8, 5),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A version that fits: how well, and where the words were found, the best place first."""

    dataset: Dataset
    score: int
    matched: tuple[tuple[str, str], ...] = ()  # (name, column, tag, ...; what stands there)


def search(
    ws: Workspace,
    text: str = "",
    *,
    column: str = "",
    tags: Mapping[str, Any] | None = None,
    owner: str = "",
    licence: str = "",
    where: str | Sequence[str] = (),
    every: bool = False,
) -> list[Found]:
    """The newest versions of the datasets that fit all that is asked, the best first; of all versions with `every`.

    Each word of `text` must be found in a name, description, column, tag, owner, licence, or among the frequent values of a
    column; letter case is ignored. `column` is a name that must be there, `tags` are names with their values, or None for any.
    `where` are conditions on statistics such as `rows > 1000`, `nulls(amount) < 0.01`, `mean(amount) >= 5`: of the version
    `rows`, `columns` and `size` (bytes), of a column the shares `nulls` and `nan`, the number of `distinct` values, and `min`,
    `max`, `mean` and `std`. Raises `Invalid` for a condition that cannot be read.

        search(ws, "card payments", tags={"country": None}, where="rows > 1000")[0].dataset.key
    """
    conditions = [_condition(c) for c in ([where] if isinstance(where, str) else where)]
    words = text.lower().split()
    found = [d for d in _candidates(ws, owner, licence, tags or {}, every) if not column or column in _columns(d)]
    scored = list(_scored(ws, found, words)) if words else [Found(d, 0) for d in found]
    kept = [f for f in scored if all(fits(ws, f.dataset) for fits in conditions)]
    return sorted(kept, key=lambda f: (-f.score, -f.dataset.created, f.dataset.name, -f.dataset.version))


def _candidates(ws: Workspace, owner: str, licence: str, tags: Mapping[str, Any], every: bool) -> list[Dataset]:
    asked: list[Where] = []
    if owner:
        asked.append(field("owner") == owner)
    if licence:
        asked.append(field("licence") == licence)
    for name, value in tags.items():
        asked.append(field(f"tags.{name}") != None if value is None else field(f"tags.{name}") == value)  # noqa: E711
    question: Where | None = None
    for part in asked:
        question = part if question is None else question & part
    found = ws.store.find(Dataset, question)
    if every:
        return found
    newest: dict[str, Dataset] = {}
    for dataset in found:
        if dataset.name not in newest or dataset.version > newest[dataset.name].version:
            newest[dataset.name] = dataset
    if question is None:
        return list(newest.values())
    return [d for d in newest.values() if ws.store.get(Dataset, f"{d.name}@{d.version + 1}") is None]


def _columns(dataset: Dataset) -> list[str]:
    return [] if dataset.type == "files" else [c["name"] for c in dataset.schema["columns"]]


def _scored(ws: Workspace, found: Iterable[Dataset], words: Sequence[str]) -> Iterator[Found]:
    found = list(found)
    values = _with_values(ws, found, words)
    for dataset in found:
        places = [*_said(dataset), *values.get(dataset.statistics, ())]
        best = [
            max(((_weight(w, kind, what), kind, what) for kind, what, _ in places), default=(0, "", "")) for w in words
        ]
        if all(score for score, _, _ in best):
            matched = dict.fromkeys((kind, what) for _, kind, what in sorted(best, reverse=True))
            shown = {(kind, what): show for kind, what, show in places}
            yield Found(
                dataset, sum(score for score, _, _ in best), tuple((kind, shown[kind, what]) for kind, what in matched)
            )


Place = tuple[str, str, str]  # where it stands, what is compared, what is shown


def _said(dataset: Dataset) -> Iterator[Place]:
    for kind in ("name", "description", "owner", "licence"):
        what = getattr(dataset, kind)
        if what:
            yield kind, what.lower(), what
    for name in _columns(dataset):
        yield "column", name.lower(), name
    for column in () if dataset.type == "files" else dataset.schema["columns"]:
        if column.get("description"):
            yield "description", column["description"].lower(), f"{column['name']}: {column['description']}"
    for name, value in dataset.tags.items():
        if name not in DERIVED:
            said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield "tag", name.lower(), f"{name}={said}"
            yield "tag", said.lower(), f"{name}={said}"


def _weight(word: str, kind: str, what: str) -> int:
    whole, start, part = _WEIGHTS[kind]
    if word not in what:
        return 0
    if word == what:
        return whole
    return start if re.search(rf"(?<![^\W_]){re.escape(word)}", what) else part


def _with_values(ws: Workspace, found: Sequence[Dataset], words: Sequence[str]) -> dict[str, list[Place]]:
    """The frequent texts in which one of the words occurs, by the digest of the statistics."""
    out: dict[str, list[Place]] = {}
    for digest, line in _indexed(ws, {d.statistics for d in found if d.statistics}).items():
        lowered = line.lower()
        if any(word in lowered for word in map(_quoted, words)):
            out[digest] = [
                ("value", value.lower(), f"{column} = {value}")
                for column, texts in json.loads(line).items()
                for value in texts
                if any(w in value.lower() for w in words)
            ]
    return out


def _quoted(word: str) -> str:
    return json.dumps(word, ensure_ascii=False)[1:-1]


def _indexed(ws: Workspace, wanted: set[str]) -> dict[str, str]:
    """The frequent texts of each column as JSON, by the digest of the statistics. What was read once is kept in a file, for
    statistics never change; whoever finds it gone or odd reads them again."""
    path = ws.folder("cache") / _INDEX
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (FileNotFoundError, UnicodeDecodeError):
        lines = []
    known = dict(parts for line in lines if len(parts := line.split("\t", 1)) == 2 and _is_object(parts[1]))
    missing = sorted(d for d in wanted - known.keys() if ws.blobs.has(d))
    if missing:
        known |= {digest: _frequent(json.loads(ws.blobs.get(digest))) for digest in missing}
        _replace(path, "".join(f"{digest}\t{line}\n" for digest, line in known.items()))
    return {digest: known[digest] for digest in wanted & known.keys()}


def _is_object(text: str) -> bool:
    return text.startswith("{") and text.endswith("}")


def _frequent(statistics: Mapping[str, Any]) -> str:
    texts = {
        column["name"]: [v for v, _ in column["top"] if isinstance(v, str) and len(v) <= _LONGEST]
        for column in statistics["columns"]
        if column["type"] == "string"
    }
    return json.dumps({c: t for c, t in texts.items() if t}, ensure_ascii=False)


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


# --- conditions -------------------------------------------------------------------------------------------------------

_CONDITION = re.compile(r"\s*(\w+)\s*(?:\(\s*(.+?)\s*\))?\s*(<=|>=|!=|=|<|>)\s*(\S.*?)\s*")
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip
_OF_VERSION: dict[str, Callable[[Dataset], float]] = {
    "rows": lambda d: d.rows,
    "columns": lambda d: len(_columns(d)),
    "size": lambda d: d.size,
}
_OF_COLUMN = ("nulls", "nan", "distinct", "min", "max", "mean", "std")


def _condition(text: str) -> Callable[[Workspace, Dataset], bool]:
    """What a condition asks of a version; a column that is not there, or has no such number, does not fit."""
    found = _CONDITION.fullmatch(text)
    name, column, sign, given = found.groups() if found else ("", None, "", "")
    if (column is None and name not in _OF_VERSION) or (column is not None and name not in _OF_COLUMN):
        raise Invalid(
            f"{text!r} is not a condition",
            expected="such as rows > 1000 or nulls(amount) < 0.01: rows, columns, size, or of a column "
            + ", ".join(_OF_COLUMN),
        )
    wanted: float | str = given
    try:
        wanted = float(given.rstrip("%").replace("_", "")) / (100 if given.endswith("%") else 1)
    except ValueError:
        if name not in ("min", "max"):  # which are texts for times
            raise Invalid(f"{given!r} in {text!r} is not a number", expected="a number") from None
    compare = _OPERATORS[sign]

    def fits(ws: Workspace, dataset: Dataset) -> bool:
        value = _OF_VERSION[name](dataset) if column is None else _statistic(ws, dataset, column, name)
        if value is None or isinstance(value, str) != isinstance(wanted, str):
            return False
        return bool(compare(value, wanted))

    return fits


def _statistic(ws: Workspace, dataset: Dataset, column: str, name: str) -> Any:
    if not dataset.statistics or column not in _columns(dataset):
        return None
    profile = json.loads(ws.blobs.get(dataset.statistics))
    for known in profile["columns"]:
        if known["name"] == column:
            value = known[name]
            return value / max(1, known["rows"]) if name in ("nulls", "nan") else value
    return None


# --- saying more ------------------------------------------------------------------------------------------------------


def describe(
    ws: Workspace,
    ref: Ref | str,
    *,
    tags: Mapping[str, Any] | None = None,
    remove: Sequence[str] = (),
    description: str | None = None,
    owner: str | None = None,
    licence: str | None = None,
) -> Dataset:
    """Change what is said about a version; its content never changes.

    `tags` are added or replaced, those in `remove` taken away, and the rest is replaced where it is not None. What changed is
    the event `dataset.described`, with who did it, and each thing as it was and as it is. Raises `NotFound` for a version or tag
    that is not there, and `Refused` for a tag that follows from the content.

        describe(ws, "tx@3", tags={"country": "FR"}, owner="payments")
    """
    given = dict(tags or {})
    for name in [*given, *remove]:
        if name in DERIVED:
            raise Refused(
                f"the tag {name} says what became of the content, and stays as it is",
                expected=f"any tag but {', '.join(sorted(DERIVED))}",
            )
    for name in given:
        if not name or name != name.strip() or "=" in name:
            raise Invalid(f"a tag named {name!r}", expected="a name without '=' and spaces around it")
    with ws.store.transaction():
        before = datasets.resolve(ws, ref)
        for name in remove:
            if name not in before.tags:
                raise NotFound.named("tag", name, before.tags)
        after = replace(
            before,
            tags={n: v for n, v in {**before.tags, **given}.items() if n not in remove},
            description=before.description if description is None else description,
            owner=before.owner if owner is None else owner,
            licence=before.licence if licence is None else licence,
        )
        changed = _changes(before, after)
        if changed:
            ws.store.put(after)
            journal.note(ws, "dataset.described", str(after.ref), reason=", ".join(changed), changed=changed)
    return after


def _changes(before: Dataset, after: Dataset) -> dict[str, list[Any]]:
    """What was said and is said now, None for nothing."""
    pairs = {n: (getattr(before, n) or None, getattr(after, n) or None) for n in ("description", "owner", "licence")}
    names = dict.fromkeys([*before.tags, *after.tags])
    pairs |= {f"tags.{n}": (before.tags.get(n), after.tags.get(n)) for n in names}
    return {n: list(p) for n, p in pairs.items() if p[0] != p[1]}


@dataclass(frozen=True, slots=True)
class Logged:
    """A version, and what changed in it against the one before; None for the first."""

    dataset: Dataset
    rows: int | None = None  # more, or fewer when negative
    schema: tuple[str, ...] = ()


def history(ws: Workspace, name: str) -> list[Logged]:
    """The versions of a dataset, the newest first, each with what the records say has changed. Raises `NotFound`."""
    versions = datasets.versions(ws, name)
    out = []
    for dataset, before in zip(versions, [*versions[1:], None], strict=True):
        if before is None:
            out.append(Logged(dataset))
            continue
        changes = evolve(Schema.from_json(before.schema), Schema.from_json(dataset.schema))
        said = tuple(f"{c.column}: {c.what}" for c in changes)
        out.append(Logged(dataset, dataset.rows - before.rows, said))
    return out


# --- looking ------------------------------------------------------------------------------------------------------------


def remarks(profile: Profile) -> list[tuple[str, str]]:
    """What somebody who looks at a table should know about its columns: (column, what)."""
    out = []
    for column in profile.columns:
        name, present = column.name, column.present - column.nan
        if column.rows and not present:
            out.append((name, "has no value at all"))
            continue
        if 2 * (column.nulls + column.nan) >= column.rows:
            out.append((name, f"{(column.nulls + column.nan) / column.rows:.0%} missing"))
        if column.nan:
            out.append((name, f"{column.nan:,} NaN, which are no nulls"))
        if column.distinct == 1 and present >= _MANY:
            out.append((name, "always the same value"))
        exact = column.distinct_exact and column.distinct == column.present
        if column.type == "string" and present >= _MANY and (exact or column.distinct > _NEARLY * column.present):
            out.append((name, "every value is another: it tells rows apart and cannot be a category"))
        spread = column.quantiles.get("0.75", 0.0) - column.quantiles.get("0.25", 0.0)
        if column.numeric and spread > 0 and column.max is not None:
            away = max(column.max - column.quantiles["0.75"], column.quantiles["0.25"] - column.min) / spread
            if away > _FAR:
                out.append((name, f"values {away:,.0f} times as far out as the middle half is wide"))
    return out


@dataclass(frozen=True, slots=True)
class FilesProfile:
    """What a folder of files holds: (ending, files, bytes) with the most bytes first, (bytes up to, files) in powers of
    ten, and the largest files with their bytes."""

    files: int
    size: int
    endings: tuple[tuple[str, int, int], ...]
    sizes: tuple[tuple[int, int], ...]
    largest: tuple[tuple[str, int], ...]


def files_profile(ws: Workspace, dataset: Dataset, largest: int = 10) -> FilesProfile:
    """The profile of a version of type files."""
    from boucle.ledger import trees

    endings: dict[str, list[int]] = {}
    sizes: dict[int, int] = {}
    every = []
    for file in trees.files(ws.blobs, dataset.manifest):
        counted = endings.setdefault(Path(file.path).suffix.lower(), [0, 0])
        counted[0] += 1
        counted[1] += file.size
        bound = 10 ** len(str(file.size - 1)) if file.size > 1 else file.size
        sizes[bound] = sizes.get(bound, 0) + 1
        every.append((file.path, file.size))
    return FilesProfile(
        len(every),
        sum(size for _, size in every),
        tuple(sorted(((e, n, size) for e, (n, size) in endings.items()), key=lambda e: (-e[2], e[0]))),
        tuple(sorted(sizes.items())),
        tuple(heapq.nsmallest(largest, every, key=lambda file: (-file[1], file[0]))),
    )
