"""Finding datasets, and saying more about them."""

from __future__ import annotations

import pytest

import boucle.workspace
from boucle.core.errors import Invalid, NotFound, Refused
from boucle.core.frames import Frame
from boucle.core.records import Dataset
from boucle.data.catalogue import describe, files_profile, history, remarks, search
from boucle.data.diff import diff
from boucle.data.ingest import ingest
from boucle.ledger import datasets, trees
from boucle.measure.quality import profile


@pytest.fixture
def ws(tmp_path):
    with boucle.workspace.init(tmp_path / "shop", actor="ann") as opened:
        yield opened


@pytest.fixture
def stocked(ws):
    payments = {"payment_id": list(range(50)), "amount": [float(i) for i in range(50)], "method": ["card", "cash"] * 25}
    ingest(ws, payments, "payments", owner="finance", licence="MIT", tags={"country": "FR", "pii": True})
    ingest(ws, {"city": ["Lyon", "Nice"], "card": [1, None]}, "shops", description="Where payments are made")
    ingest(ws, {"text": ['Zürich "x"', "a\tb"]}, "notes", tags={"country": "CH", "deep": {"y": [1]}})
    return ws


def keys(found):
    return [f.dataset.key for f in found]


def test_words_are_found_wherever_they_stand_and_the_name_says_most(stocked):
    found = search(stocked, "payments")
    assert keys(found) == ["payments@1", "shops@1"]
    assert found[0].matched == (("name", "payments"),)
    assert found[1].matched == (("description", "Where payments are made"),)
    assert found[0].score > found[1].score > 0
    for words, first in (
        ("PAYMENT_ID", ("column", "payment_id")), ("finance", ("owner", "finance")), ("mit", ("licence", "MIT")),
        ("country", ("tag", "country=FR")), ("cash", ("value", "method = cash")), ("lyon", ("value", "city = Lyon")),
        ("zÜRICH", ("value", 'text = Zürich "x"')), ('"x', ("value", 'text = Zürich "x"')), ("pii", ("tag", "pii=true")),
    ):  # fmt: skip
        assert first in [m for f in search(stocked, words) for m in f.matched], words
    assert search(stocked, "nowhere") == []


def test_every_word_must_be_found_in_one_dataset(stocked):
    assert keys(search(stocked, "finance cash")) == ["payments@1"]
    assert keys(search(stocked, "card payments")) == ["payments@1", "shops@1"]
    assert keys(search(stocked, "lyon cash")) == []


def test_the_whole_is_worth_more_than_a_start_and_a_start_more_than_a_part(ws):
    for name in ("nopay", "pay_day", "pay"):
        ingest(ws, {name: [1]}, name)
    assert keys(search(ws, "pay")) == ["pay@1", "pay_day@1", "nopay@1"]


def test_columns_tags_owners_and_conditions_narrow(stocked):
    assert keys(search(stocked, column="card")) == ["shops@1"]
    assert keys(search(stocked, tags={"country": "FR"})) == ["payments@1"]
    assert sorted(keys(search(stocked, tags={"country": None}))) == ["notes@1", "payments@1"]
    assert keys(search(stocked, tags={"country": None, "pii": True})) == ["payments@1"]
    assert keys(search(stocked, owner="finance")) == keys(search(stocked, licence="MIT")) == ["payments@1"]
    for condition, expected in (
        ("rows > 2", ["payments@1"]), ("rows>=2", ["notes@1", "payments@1", "shops@1"]), ("columns = 3", ["payments@1"]),
        ("size < 0", []), ("nulls(card) = 50%", ["shops@1"]), ("nulls( amount )<0.01", ["payments@1"]),
        ("distinct(method) = 2", ["payments@1"]), ("max(amount) >= 49", ["payments@1"]), ("mean(amount) != 24.5", []),
        ("std(nothing) > 0", []), ("rows > 1_000", []), ("max(city) > a", []),
    ):  # fmt: skip
        assert sorted(keys(search(stocked, where=condition))) == expected, condition
    assert keys(search(stocked, "payments", where=["rows > 2", "columns > 2"])) == ["payments@1"]


def test_dates_are_compared_as_they_are_written(ws):
    import datetime as dt

    ingest(ws, {"day": [dt.date(2026, 1, 1), dt.date(2026, 3, 1)]}, "days")
    assert keys(search(ws, where="max(day) >= 2026-02-01")) == ["days@1"]
    assert keys(search(ws, where="max(day) >= 2026-04-01")) == []
    assert keys(search(ws, where="max(day) > 5")) == []


@pytest.mark.parametrize(
    "text", ["", "rows", "rows >", "rows(x) > 1", "nulls > 1", "mode(x) = 1", "rows > many", "rows ~ 1"]
)
def test_what_is_no_condition(stocked, text):
    with pytest.raises(Invalid):
        search(stocked, where=text)


def test_only_the_newest_unless_all(stocked):
    ingest(stocked, {"city": ["Lyon"], "card": [2]}, "shops", owner="else")
    assert keys(search(stocked, "lyon")) == ["shops@2"]
    assert keys(search(stocked, "lyon", every=True)) == ["shops@2", "shops@1"]
    describe(stocked, "shops@1", tags={"old": 1})
    assert search(stocked, tags={"old": 1}) == []
    assert keys(search(stocked, tags={"old": 1}, every=True)) == ["shops@1"]


def test_the_index_of_values_may_be_gone_or_damaged(stocked):
    assert keys(search(stocked, "cash")) == ["payments@1"]
    (index,) = (stocked.root / "cache").iterdir()
    text = index.read_text()
    for damage in ("", text[: len(text) // 2], "\n\n{}\nx\ty\n", "\udcff".encode(errors="surrogateescape")):
        index.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
        assert keys(search(stocked, "cash")) == ["payments@1"]
    stocked.blobs.remove(datasets.resolve(stocked, "payments").statistics)
    index.unlink()
    assert keys(search(stocked, "cash")) == []


def test_what_is_said_changes_and_the_journal_tells_how(stocked):
    before = datasets.resolve(stocked, "payments@1")
    after = describe(
        stocked, "payments", tags={"country": "CH", "new": 1}, remove=["pii"], owner="sales", description="All of them"
    )
    assert datasets.resolve(stocked, "payments") == after
    assert after.tags == {"country": "CH", "new": 1}
    assert (after.digest, after.manifest, after.version) == (before.digest, before.manifest, before.version)
    event = stocked.store.events(type="dataset.described")[-1]
    assert (event.subject, event.actor) == ("dataset:payments@1", "ann")
    assert event.data["changed"] == {
        "description": [None, "All of them"], "owner": ["finance", "sales"], "tags.country": ["FR", "CH"],
        "tags.pii": [True, None], "tags.new": [None, 1],
    }  # fmt: skip
    describe(stocked, "payments", owner="sales")
    assert len(stocked.store.events(type="dataset.described")) == 1, "what changes nothing is no event"
    assert describe(stocked, "payments", owner="").owner == ""
    assert list(stocked.store.check()) == []


def test_tags_of_the_content_stay(ws, tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "1,2\n" * 50 + "1,2,3,4\n")
    ingest(ws, str(tmp_path / "a.csv"), "a")
    for change in ({"remove": ["bad_lines"]}, {"tags": {"bad_lines": "none"}}, {"tags": {"fine": 1, "sealed": 1}}):
        with pytest.raises(Refused):
            describe(ws, "a", **change)
    for change, error in (
        ({"remove": ["nothing"]}, NotFound), ({"tags": {"a=b": 1}}, Invalid), ({"tags": {"": 1}}, Invalid),
        ({"tags": {"fine": 1}, "remove": ["nothing"]}, NotFound),
    ):  # fmt: skip
        with pytest.raises(error):
            describe(ws, "a", **change)
    assert set(datasets.resolve(ws, "a").tags) == {"bad_lines"}
    assert ws.store.events(type="dataset.described") == []
    with pytest.raises(NotFound):
        describe(ws, "b", owner="me")


def test_history_tells_what_changed(ws):
    ingest(ws, {"x": [1, 2]}, "t")
    ingest(ws, {"x": [1, 2, 3], "y": ["a", "b", "c"]}, "t")
    ingest(ws, {"x": [1], "y": ["a"]}, "t")
    assert [(h.dataset.version, h.rows, h.schema) for h in history(ws, "t")] == [
        (3, -2, ()), (2, 1, ("y: added (string)",)), (1, None, ()),
    ]  # fmt: skip
    with pytest.raises(NotFound):
        history(ws, "nothing")


def test_remarks():
    table = {
        "same": [1] * 20, "nothing": [None] * 20, "few": [1.0, *[None] * 19], "name": [f"n{i}" for i in range(20)],
        "far": [*range(19), 10_000], "fine": [i % 3 for i in range(20)], "nan": [float("nan"), *[0.5, 1.5] * 9, 2.0],
    }  # fmt: skip
    found = {}
    for name, what in remarks(profile(Frame.of(table))):
        found.setdefault(name, []).append(what)
    assert {n: len(w) for n, w in found.items()} == {"same": 1, "nothing": 1, "few": 1, "name": 1, "far": 1, "nan": 1}
    assert found["few"] == ["95% missing"]
    assert found["nan"] == ["1 NaN, which are no nulls"]
    assert remarks(profile(Frame.of({"x": [1, 2]}))) == []


def test_folders_of_files(ws):
    def commit(files):
        return datasets.commit_files(ws, "pictures", trees.add(ws.blobs, files.items()))[0]

    one = commit({"a/1.jpg": b"x" * 150, "a/2.JPG": b"y" * 100, "b.txt": b"", "c": b"12345", "d.txt": b"1"})
    seen = files_profile(ws, one, largest=2)
    assert (seen.files, seen.size) == (5, 256)
    assert seen.endings == ((".jpg", 2, 250), ("", 1, 5), (".txt", 2, 1))
    assert seen.sizes == ((0, 1), (1, 1), (10, 1), (100, 1), (1000, 1))
    assert seen.largest == (("a/1.jpg", 150), ("a/2.JPG", 100))
    two = commit({"a/one.jpg": b"x" * 150, "a/2.JPG": b"z" * 90, "b.txt": b"", "new": b"1234"})
    found = diff(ws, one.ref, two.ref)
    assert (found.added, found.removed, found.changed, found.renamed) == (1, 2, 1, 1)
    assert found.renamed_files == (("a/1.jpg", "a/one.jpg"),)
    assert found.changed_files == (("a/2.JPG", 100, 90),)
    assert (found.files, found.size, found.same) == ((5, 4), (256, 244), False)
    assert diff(ws, two.ref, two.ref).same
    assert keys(search(ws, "pictures")) == ["pictures@2"]
    assert search(ws, "media_type") == []
    assert search(ws, column="path") == []


def test_a_great_many_versions(ws):
    columns = [{"name": f"c{i}", "type": "int64", "nullable": False} for i in range(20)]
    with ws.store.transaction():
        for i in range(2000):
            ws.store.add(
                Dataset(name=f"set{i % 500}", version=i // 500 + 1, digest=f"{i:064x}", manifest="", rows=i, size=0,
                        schema={"columns": columns}, created=float(i), owner=f"team{i % 7}")
            )  # fmt: skip
    assert len(search(ws, "c7")) == 500
    assert len(search(ws, "c7", every=True)) == 2000
    assert keys(search(ws, "set499"))[0] == "set499@4"
    assert all(f.dataset.version == 4 for f in search(ws, owner="team3"))
