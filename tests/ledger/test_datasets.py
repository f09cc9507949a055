"""Dataset versions: numbering, references, evolution, lineage."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from boucle.core.errors import Invalid, NotFound, Refused
from boucle.core.frames import Frame
from boucle.core.refs import Ref
from boucle.ledger import datasets, recording
from boucle.plugins.blobs.local import LocalBlobs
from boucle.plugins.stores.memory import MemoryStore


@pytest.fixture
def ws(tmp_path):
    return SimpleNamespace(
        now=time.time,
        store=MemoryStore(),
        blobs=LocalBlobs(tmp_path / "blobs", durable=False),
        actor="ann",
        root=tmp_path,
    )


def frame(*values):
    return Frame.of({"a": list(values)})


class Recorder:
    run = "RUN1"
    used = ()

    def __init__(self):
        self.seen = []

    def read(self, ref, digest, asked):
        self.seen.append(("read", ref, digest, asked))

    def made(self, ref):
        self.seen.append(("made", ref))


@pytest.fixture
def recorder():
    recorder = Recorder()
    token = recording.active.set(recorder)
    yield recorder
    recording.active.reset(token)


def test_versions_are_numbered(ws):
    first, new = datasets.commit(ws, "t", frame(1), source="here", tags={"k": "v"}, owner="ann", licence="CC0")
    assert (first.version, new, first.rows, first.actor, first.tags) == (1, True, 1, "ann", {"k": "v"})
    second, new = datasets.commit(ws, "t", frame(2))
    assert (second.version, new, second.owner, second.licence) == (2, True, "ann", "CC0")
    assert [d.version for d in datasets.versions(ws, "t")] == [2, 1]
    assert datasets.names(ws) == ["t"]
    assert [(e.type, e.subject) for e in ws.store.events()] == [("dataset.committed", f"dataset:t@{i}") for i in (1, 2)]


def test_the_same_content_makes_no_version(ws):
    first, _ = datasets.commit(ws, "t", frame(1))
    again, new = datasets.commit(ws, "t", frame(1))
    assert (again, new) == (first, False)
    assert len(ws.store.events()) == 1
    datasets.commit(ws, "t", frame(2))
    back, new = datasets.commit(ws, "t", frame(1))
    assert (back.version, new, back.digest) == (3, True, first.digest)


def test_evolution(ws):
    datasets.commit(ws, "t", frame(1))
    with pytest.raises(Refused, match="int64 became string"):
        datasets.commit(ws, "t", frame("x"))
    with pytest.raises(Refused, match="removed"):
        datasets.commit(ws, "t", Frame.of({"b": [1]}))
    assert datasets.commit(ws, "t", Frame.of({"a": [1, 2], "b": ["x", None]}))[0].version == 2
    assert datasets.commit(ws, "t", Frame.of({"c": [1, 2], "b": ["x", None]}), renames={"a": "c"})[0].version == 3
    assert datasets.commit(ws, "t", frame("x"), evolve=True)[0].version == 4


def test_a_refused_schema_writes_nothing(ws):
    datasets.commit(ws, "t", frame(1))
    before = set(ws.blobs.list())
    with pytest.raises(Refused):
        datasets.commit(ws, "t", frame("x"))
    assert set(ws.blobs.list()) == before


def test_many_at_once_get_different_numbers(ws):
    failures = []

    def work(i):
        try:
            datasets.commit(ws, "t", frame(i))
        except BaseException as error:  # noqa: BLE001  a thread's error would be lost
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    assert [d.version for d in datasets.versions(ws, "t")] == list(range(12, 0, -1))


def test_references(ws):
    one, _ = datasets.commit(ws, "t", frame(1))
    two, _ = datasets.commit(ws, "t", frame(2))
    for ref, wanted in [
        ("t", two),
        ("t@latest", two),
        ("dataset:t@1", one),
        (f"t@sha{one.digest[:8]}", one),
        ("t@{now}", two),
    ]:
        assert datasets.resolve(ws, ref) == wanted
    assert datasets.resolve(ws, Ref("dataset", "t", "2")) == two


def test_a_reference_to_a_time(ws):
    datasets.commit(ws, "t", frame(1))
    early = datasets.latest(ws, "t")
    ws.store.put(replace(early, created=1000.0))
    datasets.commit(ws, "t", frame(2))
    assert datasets.resolve(ws, "t@{2000-01-01}").version == 1
    with pytest.raises(NotFound, match="no version"):
        datasets.resolve(ws, "t@{1970-01-01}")


def test_references_to_nothing(ws):
    with pytest.raises(NotFound, match="there is no dataset yet"):
        datasets.resolve(ws, "t")
    datasets.commit(ws, "transactions", frame(1))
    with pytest.raises(NotFound, match="transactions"):
        datasets.resolve(ws, "transaction")
    for version in ("7", "production", "sha0000", "{1990-01-01}"):
        with pytest.raises(NotFound, match="no version"):
            datasets.resolve(ws, f"transactions@{version}")
    with pytest.raises(Invalid):
        datasets.resolve(ws, "model:transactions")
    with pytest.raises(Invalid, match="not a dataset"):
        datasets.resolve(ws, Ref("model", "transactions", "1"))


def test_a_bad_name_is_refused_before_anything_is_written(ws):
    with pytest.raises(Invalid, match="usable"):
        datasets.commit(ws, "a b", frame(1))
    assert not list(ws.blobs.list())


def test_loading(ws):
    made, _ = datasets.commit(ws, "t", frame(1, 2))
    loaded = datasets.load(ws, "t")
    assert (loaded.table().to_pydict(), loaded.digest, loaded.ref, loaded.rows) == (
        {"a": [1, 2]}, made.digest, "dataset:t@1", 2,
    )  # fmt: skip


def test_a_run_notes_what_it_reads_and_makes(ws, recorder):
    made, _ = datasets.commit(ws, "t", frame(1))
    datasets.load(ws, "t@latest")
    assert made.run == "RUN1"
    assert recorder.seen == [("made", "dataset:t@1"), ("read", "dataset:t@1", made.digest, "t@latest")]
