"""SQL over dataset versions: `select ... from tx@3 join customers@latest using (id)`.

DuckDB answers, and reads the versions as streams: only the columns and blocks that the question needs, with what does not fit
into its memory on the disk. It reaches nothing else: no files, no network, no extensions, and only one SELECT.
"""

from __future__ import annotations

import itertools
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from boucle.core.errors import BoucleError, Corrupt, Invalid, NotFound, Unavailable
from boucle.core.frames import BATCH_ROWS, Frame, schema_of
from boucle.core.records import Dataset
from boucle.core.refs import NAME, Ref, check_name
from boucle.data.ingest import Ingested, ingest
from boucle.ledger import datasets, recording, runs, scans
from boucle.ports.lookup import missing_extra
from boucle.workspace import Workspace

try:
    import duckdb
except ImportError:
    raise missing_extra("duckdb", "duckdb", "engine") from None

MEMORY = "2GB"

_REFERENCE = re.compile(
    rb"""(?<![\w.@-])
    (?:"(?P<quoted>(?:[^"]|"")+)"|(?P<plain>[A-Za-z0-9][A-Za-z0-9._-]*))
    @(?P<version>\d+|latest|sha[0-9a-f]{4,64}|\{[^{}'"]*\})(?![\w@-])""",
    re.VERBOSE,
)
_SIZE = re.compile(r"\d+(?:\.\d+)?\s*[KMGT]i?B\Z", re.IGNORECASE)

_Sources = Mapping[tuple[str, str], Dataset]  # (schema, table) in DuckDB -> what it is


def sql(ws: Workspace, query: str, *, memory: str = MEMORY) -> Frame:
    """What a SELECT over dataset versions gives, as a lazy frame: each reading asks again, with bounded memory.

    A table is a dataset: `tx` (the latest version), `tx@3`, `tx@latest`, `tx@sha1f3a`, `tx@{2026-11-01}`; a name that is not a
    word goes in double quotes, `"my-data"@3`. Versions are settled now, and an active run notes that they were read. `memory`
    is what DuckDB may take before it puts intermediate results on the disk, in the workspace's folder `tmp`. Sums of integers
    come as int64, float16 as float32, durations as intervals.

    Raises `Invalid` for SQL that is wrong or is no SELECT, `NotFound` for a dataset that is not there, and, while it is read,
    `Corrupt` for stored bytes that are damaged and `Unavailable` when the memory is not enough.

        sql(ws, "select country, sum(amount) as total from tx@3 group by country").pandas()
    """
    if not _SIZE.match(memory):
        raise Invalid(f"memory {memory!r}", expected="a size such as 500MB or 2GB")
    text, asked = _rewritten(query)
    _check_kind(text)
    question = _Question(ws, text, {place: _table(ws, ref) for place, ref in asked.items()}, memory)
    while isinstance(found := question.bound(), str):
        # DuckDB itself says which names without a version are tables, and not columns or parts of the query.
        question = replace(question, sources={**question.sources, ("", found): _table(ws, Ref.parse(found, "dataset"))})
    for (version, name), dataset in question.sources.items():
        recording.note_read(str(dataset.ref), dataset.digest, f"dataset:{name}{version}")
    return Frame(schema_of(found), question, ref="sql")


def _table(ws: Workspace, ref: Ref) -> Dataset:
    dataset = datasets.resolve(ws, ref)
    if dataset.type != "table":
        raise Invalid(f"{dataset.key} holds {dataset.type}, not rows", expected="a dataset that is a table")
    return dataset


def into(ws: Workspace, query: str, name: str, *, memory: str = MEMORY, evolve: bool = False) -> Ingested:
    """Make what a SELECT gives the next version of the dataset `name`, with its statistics, streamed.

    It is a run of its own (or part of the active one), with the SQL as its param, which ties the version to those it was made
    from. Raises as `sql` and `data.ingest.ingest` do; then there is no version.
    """
    check_name(name, "dataset name")
    with runs.track(ws, f"sql-{name}"[:128], params={"sql": query.strip()}):
        return ingest(ws, sql(ws, query, memory=memory), name, evolve=evolve)


def _rewritten(query: str) -> tuple[str, dict[tuple[str, str], Ref]]:
    """The query with `name@version` as `"@version"."name"`, so that the name stays usable for columns (`tx.amount`), and what was
    replaced. What stands in texts, comments and quotes is left alone."""
    data = query.encode(errors="surrogatepass").rstrip().removesuffix(b";")
    tokens = duckdb.tokenize(query)
    ats = {at for at, kind in tokens if kind == duckdb.token_type.operator and data[at : at + 1] == b"@"}
    hidden = _hidden(data, tokens)
    asked: dict[tuple[str, str], Ref] = {}

    def replaced(found: re.Match[bytes]) -> bytes:
        if found.start("version") - 1 not in ats or (found["plain"] and hidden[found.start()]):
            return found[0]
        name = found["plain"] or found["quoted"].replace(b'""', b'"')
        ref = Ref("dataset", check_name(name.decode(errors="replace"), "dataset name"), found["version"].decode())
        asked[f"@{ref.version}", ref.name] = ref
        return f'"@{ref.version}"."{ref.name}"'.encode()

    return _REFERENCE.sub(replaced, data).decode(errors="surrogatepass"), asked


def _hidden(data: bytes, tokens: Sequence[tuple[int, Any]]) -> bytearray:
    """1 for each byte of a text, comment or quoted name."""
    marks = bytearray(len(data) + 1)
    kinds = duckdb.token_type
    for (at, kind), (end, _) in itertools.pairwise([*tokens, (len(data), None)]):
        if kind in (kinds.string_const, kinds.comment) or data[at : at + 1] == b'"':
            marks[at:end] = b"\1" * (end - at)
    return marks


def _check_kind(text: str) -> None:
    """Raise `Invalid` for anything but one SELECT."""
    with duckdb.connect() as connection, _explained(text):
        statements = connection.extract_statements(text)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise Invalid(
            f"{len(statements)} statements" if len(statements) != 1 else f"a statement to {_kind(statements[0])}",
            expected="one SELECT; data are changed by new versions, not in place",
            fix="boucle sql 'select ...' --into NAME makes a version of what it gives",
        )


def _kind(statement: Any) -> str:
    return str(statement.type).rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class _Question:
    """A query and its sources: what a frame calls to be read."""

    ws: Workspace
    text: str
    sources: _Sources
    memory: str

    def __call__(self, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        with _explained(self.text, self.ws), self._asked() as relation:
            chosen = relation if columns is None else relation.project(", ".join(map(_quoted, columns)))
            yield from chosen.to_arrow_reader(BATCH_ROWS)

    def bound(self) -> pa.Schema | str:
        """The schema of the answer; or a name that DuckDB takes for a table, and that is a dataset which is not among the
        sources yet."""
        with _explained(self.text, self.ws):
            try:
                with self._asked() as relation:
                    return relation.limit(0).to_arrow_reader(1).schema
            except duckdb.CatalogException as error:
                found = _MISSING.search(str(error))
                name = found[1] if found else ""
                if ("", name) not in self.sources and ("@" in name or name in datasets.names(self.ws)):
                    return name
                raise

    @contextmanager
    def _asked(self) -> Iterator[Any]:
        with (
            tempfile.TemporaryDirectory(prefix="sql-", dir=self.ws.folder("tmp")) as spill,
            duckdb.connect() as connection,
        ):
            for number, ((schema, name), dataset) in enumerate(self.sources.items()):
                connection.register(f"#{number}", scans.dataset(self.ws.blobs, dataset.manifest))
                if schema:
                    connection.execute(f"create schema if not exists {_quoted(schema)}")
                place = f"{_quoted(schema)}." if schema else ""
                connection.execute(f'create view {place}{_quoted(name)} as from "#{number}"')
            _close(connection, spill, self.memory)
            relation = connection.sql(self.text)
            twice = sorted({c for c in relation.columns if relation.columns.count(c) > 1})
            if twice:
                raise Invalid(
                    f"more than one column is named {', '.join(map(repr, twice[:5]))}",
                    expected="distinct names",
                    fix=f"name one of them: select ... {twice[0]} as other_{twice[0]}",
                )
            yield _narrowed(relation)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _close(connection: Any, spill: str, memory: str) -> None:
    """Let it reach nothing but what is registered; it cannot be opened again."""
    settings = {
        "temp_directory": spill, "memory_limit": memory, "TimeZone": "UTC", "python_enable_replacements": False,
        "enable_progress_bar": False,
        "autoinstall_known_extensions": False, "autoload_known_extensions": False, "allow_community_extensions": False,
        "enable_external_access": False, "lock_configuration": True,
    }  # fmt: skip
    for name, value in settings.items():
        connection.execute(f"set {name} = {value if isinstance(value, bool) else _text(str(value))}")


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _narrowed(relation: Any) -> Any:
    """128-bit integers, which sums of integers are, as int64; what does not fit says so."""
    wide = [str(t) in ("HUGEINT", "UHUGEINT") for t in relation.types]
    if not any(wide):
        return relation
    names = [_quoted(c) for c in relation.columns]
    return relation.project(
        ", ".join(f"cast({n} as bigint) as {n}" if w else n for n, w in zip(names, wide, strict=True))
    )


_MISSING = re.compile(r"Table with name (.+?) does not exist")
_OURS = re.compile(r'"(@(?:\d+|latest|sha[0-9a-f]+|\{[^{}"]*\}))"\."([^"]+)"')


@contextmanager
def _explained(text: str, ws: Workspace | None = None) -> Iterator[None]:
    """DuckDB's errors as ours."""
    try:
        yield
    except BoucleError:
        raise
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise _translated(error, text, ws) from None


def _translated(error: Exception, text: str, ws: Workspace | None) -> BoucleError:
    said = str(error).strip()
    missing = _MISSING.search(said)
    if missing and ws is not None and NAME.match(missing[1]):
        return NotFound.named("dataset", missing[1], datasets.names(ws), fix="boucle data list")
    if "reading the stream" in said:
        return Corrupt(
            f"a stored table cannot be read: {said.partition(' failed: ')[2] or said}",
            expected="the bytes that were written",
            fix="restore it from a copy; `boucle fsck` lists all damage",
        )
    if isinstance(error, duckdb.OutOfMemoryException):
        return Unavailable(
            f"the query needs more memory or disk than it may take: {said.splitlines()[0]}",
            expected="a question whose intermediate results fit",
            fix="give it more, as in --memory 8GB, or ask for less at a time",
        )
    first, _, rest = _OURS.sub(lambda m: m[2] + m[1], said).partition("\n")
    hint = next((line.strip() for line in rest.splitlines() if line.startswith(("Did you mean", "Candidate"))), "")
    if isinstance(error, duckdb.PermissionException):
        hint = "only datasets of this workspace; SQL reaches no files and no network here"
    elif "syntax error" in first and re.search(r'at or near "[-.]"', first):
        hint = 'a dataset whose name is not a word in double quotes, as in "my-data"@3'
    return Invalid(f"the query is wrong: {first}", expected=hint, fix="" if hint else f"look at: {_short(text)}")


def _short(text: str) -> str:
    flat = _OURS.sub(lambda m: m[2] + m[1], " ".join(text.split()))
    return flat if len(flat) <= 200 else f"{flat[:197]}..."
