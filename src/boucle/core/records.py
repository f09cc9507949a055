"""The nouns: frozen values, each kept as one row of its own table.

A noun's class is its schema: a store makes the table from the fields, adds a column when a field is added, and
indexes the fields marked `searchable`. Times are seconds since the epoch (UTC), digests are lower-case hex BLAKE3,
`dict` fields hold JSON. Bytes never live in a record: a field holds the digest of the blob.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from boucle.core.refs import Ref

Json = dict[str, Any]

SEARCHABLE = {"searchable": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What every noun has: a kind, and a key that is unique within it."""

    KIND: ClassVar[str] = ""

    @property
    def key(self) -> str:
        """`name@version` for what has versions, the id for what is single."""
        raise NotImplementedError(type(self).__name__)

    @property
    def ref(self) -> Ref:
        """The reference that names this record for good."""
        name, _, version = self.key.partition("@")
        return Ref(self.KIND, name, version)

    def __str__(self) -> str:
        return f"{self.KIND}:{self.key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset(Record):
    """One immutable version of a table, or of a folder of files."""

    KIND: ClassVar[str] = "dataset"

    name: str = field(metadata=SEARCHABLE)
    version: int
    digest: str = field(metadata=SEARCHABLE)  # over schema and every value, not over the stored bytes
    manifest: str  # blob: schema and blocks, or the files
    rows: int
    size: int  # bytes as stored
    schema: Json
    type: str = "table"  # table or files
    position: Json = field(
        default_factory=dict
    )  # where its source stood after these rows: a cursor, offsets of a stream
    statistics: str = ""  # blob: per column, from the one pass of ingestion
    source: str = ""  # where it came from, never with credentials
    created: float = field(metadata=SEARCHABLE)
    actor: str = ""
    run: str = ""  # the run that made it; empty for what came from outside
    owner: str = ""
    licence: str = ""
    description: str = ""
    tags: Json = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Code(Record):
    """The source a run really reached: commit, what was changed on top of it, and the files themselves."""

    KIND: ClassVar[str] = "code"

    digest: str
    entry: str  # file or module:function
    sources: str  # blob: JSON of path -> blob
    repository: str = ""
    commit: str = field(default="", metadata=SEARCHABLE)
    committed: float = 0.0  # when that commit was made
    branch: str = ""
    dirty: bool = False
    diff: str = ""  # blob: the uncommitted change, empty when there is none or no repository
    created: float = 0.0

    @property
    def key(self) -> str:
        return self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Run(Record):
    """One execution: of a pipeline, of one of its steps, or of a plain `with boucle.track(...)` block."""

    KIND: ClassVar[str] = "run"

    id: str
    name: str = field(metadata=SEARCHABLE)
    type: str = "run"  # run, pipeline or step
    status: str = field(default="running", metadata=SEARCHABLE)  # running, finished, failed, cancelled, lost
    parent: str = field(default="", metadata=SEARCHABLE)
    started: float = field(metadata=SEARCHABLE)
    ended: float = 0.0
    actor: str = ""
    host: str = ""
    pid: int = 0
    code: str = ""
    environment: str = ""  # blob: locked packages, interpreter, platform
    cache_key: str = field(default="", metadata=SEARCHABLE)
    inputs: Json = field(default_factory=dict)  # of a step: digest of its code and of each argument
    reads: Json = field(default_factory=dict)  # what the body read by itself -> digest it had then
    outputs: Json = field(default_factory=dict)
    params: Json = field(default_factory=dict, metadata=SEARCHABLE)
    metrics: Json = field(default_factory=dict, metadata=SEARCHABLE)  # the last value of each
    tags: Json = field(default_factory=dict, metadata=SEARCHABLE)
    seed: int = 0
    log: str = ""  # blob: what was printed
    error: str = ""
    attempts: int = 1
    flushed: int = 0  # how many files of live points are in the store already

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact(Record):
    """A value that a run made, named by its content: the same content made twice is one artifact."""

    KIND: ClassVar[str] = "artifact"

    digest: str
    name: str = field(default="", metadata=SEARCHABLE)
    type: str = field(default="", metadata=SEARCHABLE)  # frame, json, array, model, bundle, file, ...
    value: Json = field(default_factory=dict)  # how to read it back: codec and either the value or its blobs
    size: int = 0
    run: str = ""  # the first run that made it
    created: float = 0.0

    @property
    def key(self) -> str:
        return self.digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(Record):
    """One registered version of a model. Everything is fixed at registration except its stage."""

    KIND: ClassVar[str] = "model"

    name: str = field(metadata=SEARCHABLE)
    version: int
    digest: str = field(metadata=SEARCHABLE)  # of the bundle
    artifact: str  # key of the bundle's artifact
    stage: str = field(default="none", metadata=SEARCHABLE)
    task: str = ""
    framework: str = ""
    run: str = ""
    metrics: Json = field(default_factory=dict, metadata=SEARCHABLE)
    created: float = 0.0
    actor: str = ""
    description: str = ""
    tags: Json = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Service(Record):
    """One revision of a service: a model version, put behind an address by a target."""

    KIND: ClassVar[str] = "service"

    name: str = field(metadata=SEARCHABLE)
    revision: int
    model: str = field(metadata=SEARCHABLE)  # key of the model
    digest: str = ""  # of the bundle it runs
    target: str = "process"
    status: str = field(default="starting", metadata=SEARCHABLE)  # starting, trial, ready, stopped, failed
    share: float = 0.0  # of the traffic that it answers, 0 to 1
    shadow: bool = False  # it is asked what the others are asked, and its answers are only logged
    url: str = ""
    handle: Json = field(default_factory=dict)  # whatever the target needs to find it again
    folder: str = ""  # where its prediction log is
    created: float = 0.0
    actor: str = ""

    @property
    def key(self) -> str:
        return f"{self.name}@{self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout(Record):
    """How a service came from one revision to the next, phase by phase."""

    KIND: ClassVar[str] = "rollout"

    id: str
    service: str = field(metadata=SEARCHABLE)
    strategy: str  # replace, blue-green, canary, ab
    # running, waiting (for an approval), paused; then for good: finished (it won), failed (the one before answers again),
    # aborted (a person ended it)
    status: str = field(default="running", metadata=SEARCHABLE)
    phase: str = ""  # where it is
    policy: Json = field(default_factory=dict)  # what it follows, as it was when it began
    model: str = ""
    before: int = 0  # revision, 0 when there was none
    after: int = 0
    phases: Json = field(default_factory=dict)  # name -> {status, started, ended, evidence}
    started: float = 0.0
    ended: float = 0.0
    actor: str = ""
    reason: str = ""

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """A judgement on something: quality of data, a gate, a proof. Evidence is kept with it."""

    KIND: ClassVar[str] = "verdict"

    id: str
    subject: str = field(metadata=SEARCHABLE)  # reference of what is judged
    check: str = field(metadata=SEARCHABLE)
    status: str = field(metadata=SEARCHABLE)  # pass, warn, fail
    summary: str = ""
    score: float | None = None
    threshold: float | None = None
    evidence: Json = field(default_factory=dict)
    run: str = ""
    created: float = 0.0
    actor: str = ""

    @property
    def key(self) -> str:
        return self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Event(Record):
    """A line of the journal. `sequence`, `previous` and `digest` are set by the store when it is appended: each event's
    digest covers the one before it, so that a changed or removed line shows."""

    KIND: ClassVar[str] = "event"

    sequence: int = 0
    type: str = field(metadata=SEARCHABLE)  # dotted, e.g. model.stage
    subject: str = field(default="", metadata=SEARCHABLE)  # reference
    time: float = 0.0
    actor: str = ""
    reason: str = ""
    data: Json = field(default_factory=dict)
    previous: str = ""
    digest: str = ""

    @property
    def key(self) -> str:
        return str(self.sequence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(Record):
    """Who looks after something just now, until when, and how far it has come: whoever holds it next goes on from there."""

    KIND: ClassVar[str] = "lease"

    name: str  # of what is looked after, such as rule:retrain
    holder: str = ""  # empty when nobody does
    until: float = 0.0
    token: int = 0  # rises with each change of the holder
    state: Json = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert(Record):
    """Something that people were told, from its beginning to its end. What happens again while it is open is counted."""

    KIND: ClassVar[str] = "alert"

    id: str
    name: str = field(metadata=SEARCHABLE)  # what kind of trouble, such as drift
    subject: str = field(metadata=SEARCHABLE)  # reference of what is in trouble
    severity: str = "warning"  # info, warning, critical
    title: str = ""
    status: str = field(default="open", metadata=SEARCHABLE)  # open, acknowledged, resolved
    count: int = 1
    onset: float = 0.0  # when the trouble began, as far as is known
    opened: float = 0.0
    last: float = 0.0  # when it was seen last
    acknowledged: float = 0.0
    resolved: float = 0.0
    actor: str = ""  # who acknowledged or resolved it
    reason: str = ""
    data: Json = field(default_factory=dict)
    delivered: Json = field(
        default_factory=dict
    )  # channel -> {time, severity} of the last delivery, or {attempts, next, error}

    @property
    def key(self) -> str:
        return self.id


RECORDS: dict[str, type[Record]] = {
    cls.KIND: cls for cls in (Dataset, Code, Run, Artifact, Model, Service, Rollout, Verdict, Lease, Alert, Event)
}


@dataclass(frozen=True, slots=True)
class Edge:
    """`source --relation--> target`, both as references. Read as a sentence: run used dataset, run made artifact."""

    source: str
    relation: str
    target: str
    time: float = 0.0
    detail: Json = field(default_factory=dict)


# Which way each relation reads, and that there are no others. "Up" is towards where something came from.
RELATIONS: dict[str, str] = {
    "used": "run -> what it read",
    "made": "run -> what it wrote",
    "part_of": "run -> the run it is a step of",
    "ran": "run -> code",
    "derived": "thing -> thing it was copied or cut from",
    "continues": "dataset -> the version whose rows it holds too",
    "packs": "model -> artifact of its bundle",
    "trained_on": "model -> rows it learned from",
    "tested_on": "model -> rows it was judged on",
    "serves": "service -> model",
    "judges": "verdict -> what it judges",
}


@dataclass(frozen=True, slots=True)
class Points:
    """One series of numbers as columns of equal length, in the order they were logged.

    Steps are integers, times seconds since the epoch, values floats.
    """

    name: str
    steps: tuple[int, ...] | list[int]
    times: tuple[float, ...] | list[float]
    values: tuple[float, ...] | list[float]

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def joined(cls, name: str, parts: list[Self]) -> Points:
        """One series out of several, in the order given."""
        return cls(
            name,
            [s for p in parts for s in p.steps],
            [t for p in parts for t in p.times],
            [v for p in parts for v in p.values],
        )
