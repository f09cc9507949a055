"""rollout on the command line: what is planned, walked, shown and said."""

from __future__ import annotations

import importlib
import shutil
import sys
import threading
import time
from dataclasses import replace

import pytest

import boucle
from boucle.core.errors import BoucleError
from boucle.core.records import Rollout, Service
from boucle.core.refs import new_id
from boucle.faces.cli.rollout import drawn
from boucle.ledger import models, services
from boucle.ops import rollout as rollouts

CODE = """
LIMIT = 20.0

def says(rows):
    return ["yes" if (r["age"] or 0) > LIMIT else "no" for r in rows]

def again(rows):
    return says(rows)

def never(rows):
    return ["no"] * len(rows)
"""
TOML = """[boucle]
[rollouts.shop]
rows = 40
errors = 0.4
slow = 0.9
phases = ["replay", "canary 50 %", "all"]
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Three versions of a model: the second answers as the first, the third does not."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "saying.py").write_text(CODE)
    (folder / "boucle.toml").write_text(TOML)
    sys.path.insert(0, str(folder))
    try:
        saying = importlib.import_module("saying")
        with boucle.init(folder) as ws:
            for says in (saying.says, saying.again, saying.never):
                models.register(ws, "shop", says, data=boucle.Frame.of({"age": [1.0, 40.0]}))
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("saying", None)
    return folder


@pytest.fixture
def shop(built, home, cli):
    """A copy of that project; nothing runs yet."""
    shutil.copytree(built, home, dirs_exist_ok=True)
    with boucle.open(home) as ws:
        yield ws


@pytest.fixture
def reserved(shop):
    """A service on record, of which no process runs."""
    one = services.reserve(shop, "shop", models.resolve(shop, "shop@1"), "process", shop.now())
    return services.change(shop, one, "stopped")


def rolling(ws, **fields):
    """A rollout that is in its second phase."""
    harm = {"estimate": 0.0, "low": -0.03, "high": 0.05, "rows": 90, "level": 0.01}
    open_harm = {"estimate": None, "low": None, "high": None, "rows": 0, "level": 0.01}
    phases = {
        "replay": {
            "status": "finished", "started": 100.0, "ended": 102.5, "said": "other answers to 0.0% of 90 rows",
            "evidence": {"pairs": 90}, "measures": {"differ": {"state": "ok", "harm": harm, "allowed": 0.3, "said": ""}},
        },
        "canary 50 %": {
            "status": "running", "started": 103.0, "said": "3 of 40 answers",
            "evidence": {"after": {"rows": 3, "loss": {"rows": 2}}},
            "measures": {"errors": {"state": "open", "harm": open_harm, "allowed": 0.02, "said": ""}},
        },
    }  # fmt: skip
    policy = {"strategy": "ab", "phases": [], "rows": 40, "labels": True}
    rollout = Rollout(
        id=new_id(), model="shop@2", before=1, after=2, started=99.0, actor="ann", policy=policy,
        **{"service": "shop", "strategy": "ab", "phase": "canary 50 %", "phases": phases, **fields},
    )  # fmt: skip
    ws.store.put(rollout)
    return rollout


# --- before anything runs ----------------------------------------------------------------------------------------------


def test_the_plan_is_printed_and_nothing_begins(reserved, shop, cli):
    said = cli("rollout", "start", "shop@2", "--dry-run")
    assert said.code == 0, said.err
    assert "shop@2 would be tried in the place of shop@1 (shop@1); nothing was begun" in said.out
    whole = " ".join(said.out.split())
    assert "at most 30 % of the answers differ" in whole
    assert "each phase needs 40 answers, and is rolled back after 1 day" in whole
    assert "its gate" in said.out
    arguments = ("--strategy", "canary", "--approve", "canary 5 %, all", "--json")
    planned = cli("rollout", "start", "shop@2", "--dry-run", *arguments).json
    assert [p["phase"] for p in planned["phases"]] == ["replay", "shadow", "canary 5 %", "canary 25 %", "all"]
    assert [p["shows"] for p in planned["phases"]] == [
        ["differ"], ["errors"], ["errors", "slow"], ["errors", "slow"], ["errors"],
    ]  # fmt: skip
    assert ["a person approves" in p["begins when"] for p in planned["phases"]] == [False, False, True, False, True]
    given = cli("rollout", "start", "shop@2", "--dry-run", "--phases", "replay,canary 10 %, all", "--json").json
    assert [p["share"] for p in given["phases"]] == [0.0, 0.1, 1.0]
    assert shop.store.find(Rollout) == []
    assert len(shop.store.find(Service)) == 1


def test_labels_ask_for_a_score(reserved, shop, cli):
    (shop.root / "services" / "shop" / "1").mkdir(parents=True)
    (shop.root / "services" / "shop" / "1" / "labels.jsonl").write_text("")
    planned = cli("rollout", "start", "shop@2", "--dry-run", "--json").json
    assert [p["shows"] for p in planned["phases"]] == [["score"], ["errors", "slow"], ["errors"]]
    assert "at most 2 points fewer are right" in " ".join(cli("rollout", "start", "shop@2", "--dry-run").out.split())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing@1",), 3, "nothing"),
        (("shop@9",), 3, "9"),
        (("shop@2", "--service", "other", "--dry-run"), 3, "other"),
        (("shop@2", "--service", "other"), 3, "boucle deploy shop@2 --name other"),
        (("shop@2", "--strategy", "canaries"), 3, "canary"),
        (("shop@2", "--phases", "shadow"), 2, "'all' at the end"),
        (("shop@2", "--rows", "-4"), 2, "rows is -4"),
        (("shop@2", "--timeout", "soon"), 2, "hours"),
        (("shop@2", "--approve", "every"), 3, "replay"),
        (("shop@2", "--rows", "many"), 2, ""),
    ],
)
def test_what_cannot_begin(reserved, cli, arguments, code, words):
    said = cli("rollout", "start", *arguments)
    assert (said.code, words in said.err) == (code, True), said.err


def test_a_mistake_in_the_settings_names_its_table(reserved, home, cli):
    (home / "boucle.toml").write_text("[boucle]\n[rollouts.default]\nrow = 3\n")
    said = cli("rollout", "start", "shop@2", "--dry-run")
    assert said.code == 3
    assert "[rollouts.default]" in said.err
    assert "rows" in said.err


@pytest.mark.parametrize("verb", ["pause", "resume", "approve", "abort"])
def test_there_must_be_one_to_say_something_about(reserved, cli, verb):
    said = cli("rollout", verb, "shop")
    assert said.code == 3
    assert "no rollout of shop is going on" in said.err


# --- lists and pages ---------------------------------------------------------------------------------------------------


def test_list(reserved, shop, cli):
    assert "no rollouts yet" in cli("rollout").out
    first = rolling(shop, status="finished")
    second = replace(first, id=new_id(), started=200.0, ended=260.5, status="failed")
    shop.store.put(second)
    assert [r["id"] for r in cli("rollout", "--json").json] == [second.id, first.id]
    assert [r["id"] for r in cli("rollout", "list", "shop", "--limit", 1, "--json").json] == [second.id]
    words = cli("rollout").out
    assert words == cli("rollout", "list", "shop").out
    assert f"{second.id}   shop      1 -> 2      shop@2   ab         failed" in words
    assert "1.0 min" in words or "60.5 s" in words
    assert cli("rollout", "list", "nothing").code == 3


def test_show(reserved, shop, cli):
    rollout = rolling(shop)
    rollouts.freeze(shop, "shop", reason="holidays")
    words = cli("rollout", "show", "shop")
    assert words.code == 0, words.err
    assert "ann froze it: holidays" in words.out
    assert "3 of 40 answers" in words.out
    lines = [" ".join(text.split()) for text in words.out.splitlines()]
    assert any(text.startswith("replay finished") and "2.5 s 90 -" in text for text in lines)
    assert any(text.startswith("canary 50 % running") and "- 3 2 3 of 40" in text for text in lines)
    assert "all - - - - - -" in lines
    assert any(text.startswith("replay differ ok +0.0% -3.0% to +5.0% +30.0%") and text.endswith("│") for text in lines)
    assert any(text.startswith("canary 50 % errors open - - +2.0%") for text in lines)
    for name in (rollout.id, rollout.id[:20].lower()):
        said = cli("rollout", "show", name, "--json").json
        assert (said["id"], said["said"], said["frozen"] != "") == (rollout.id, "3 of 40 answers", True)
        assert [p["phase"] for p in said["phases"]] == ["replay", "canary 50 %", "all"]
        assert said["phases"][0]["measures"]["differ"]["harm"]["high"] == 0.05
    rolling(shop, status="finished", service="other")
    for name in ("nothing", "0"):
        failed = cli("rollout", "show", name)
        assert (failed.code, "boucle rollout" in failed.err) == (3, True), name


def test_a_phase_that_waits_says_so(reserved, shop, cli):
    rolling(shop, status="waiting", phase="all")
    assert [p["status"] for p in cli("rollout", "show", "shop", "--json").json["phases"]] == [
        "finished",
        "running",
        "waiting",
    ]


def test_an_interval_is_drawn_against_its_limit():
    def at(low, estimate, high, allowed=0.02):
        return drawn({"estimate": estimate, "low": low, "high": high}, allowed)

    fine, worse, wide = at(-0.01, 0.0, 0.01), at(0.03, 0.04, 0.05), at(-1.0, None, 1.0)
    assert fine.index("●") < fine.index("│")
    assert worse.index("│") < worse.index("─") < worse.index("●")
    assert {fine.index("│"), worse.index("│"), wide.index("┼")} == {15}
    assert (wide[0], wide[-1], len(wide)) == ("◂", "▸", 25)
    assert at(None, None, None) == ""
    assert at(-0.01, 0.0, 0.05, allowed=0.0).index("●") == 12


# --- with a process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def served(shop, cli):
    """The first version is asked, and was asked before."""
    boucle.deploy(shop, "shop@1")
    boucle.predict(shop, "shop", [{"age": float(i)} for i in range(60)])
    yield shop
    boucle.stop(shop, "shop")


@pytest.fixture
def asking(served, home):
    """Somebody who asks all the time."""
    enough = threading.Event()
    failed: list[BoucleError] = []

    def ask():
        with boucle.open(home) as ws:
            while not enough.wait(0.002):
                try:
                    boucle.predict(ws, "shop", [{"age": 33.0}])
                except BoucleError as error:
                    failed.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    yield served
    enough.set()
    thread.join()
    assert failed == []


def test_followed_to_the_end(asking, cli):
    said = cli("rollout", "start", "shop@2", "--follow", "--timeout", "40 seconds", "--reason", "newer")
    assert said.code == 0, (said.out, said.err)
    marks = [text for text in said.out.splitlines() if text.startswith("+ ")]
    assert [mark.split("  ")[0] for mark in marks] == ["+ replay", "+ canary 50 %", "+ all"]
    assert "shop@2 (shop@2) is tried in the place of shop@1" in said.out
    assert "shop@2 won: it serves shop@2" in said.out
    assert [(s["service"], s["share"]) for s in cli("services", "--json").json] == [("shop@2", 1.0)]
    (answer,) = cli("predict", "shop", '{"age": 33}', "--key", "ann", "--json").json
    assert answer["revision"] == 2

    gone = cli("rollout", "back", "shop", "--reason", "second thoughts", "--json").json
    assert (gone["service"], gone["model"]) == ("shop@3", "shop@1")
    assert cli("rollout", "list", "--json").json[0]["strategy"] == "replace"


def test_one_that_answers_otherwise_is_rolled_back(served, cli):
    time.sleep(1.1)  # a log is read up to a second ago
    said = cli("rollout", "start", "shop@3", "--follow")
    assert said.code == 4, (said.out, said.err)
    assert "x replay" in said.out
    assert "rolled back: shop@1 answers everything" in said.out
    assert cli("rollout", "--json").json[0]["status"] == "failed"
    shown = cli("rollout", "show", "shop").out
    assert "worse" in shown
    failed = cli("rollout", "start", "shop@3", "--follow", "--json")
    assert (failed.code, failed.json["status"]) == (4, "failed")


def test_what_people_say(served, cli):
    begun = cli(
        "rollout", "start", "shop@2", "--phases", "shadow, canary 30 %, all", "--approve", "canary 30 %", "--json"
    ).json
    assert (begun["status"], begun["phase"]) == ("running", "shadow")
    assert cli("rollout", "start", "shop@3").code == 5
    assert cli("rollout", "pause", "shop", "--reason", "lunch", "--json").json["status"] == "paused"
    assert "goes on with shadow" in cli("rollout", "resume", "shop").out
    assert cli("rollout", "approve", "shop").code == 2  # nothing waits
    rollouts.turn(served, rollouts.going(served, "shop"))
    table = cli("services").out
    rows = [text.split()[:5] for text in table.splitlines() if text.startswith("shop@")]
    assert rows == [["shop@2", "shop@2", "trial", "shadow", rows[0][4]], ["shop@1", "shop@1", "ready", "100", "%"]]
    assert {s["service"]: s["shadow"] for s in cli("services", "--json").json} == {"shop@2": True, "shop@1": False}

    assert "changes by itself" in cli("rollout", "freeze", "shop", "--reason", "holidays").out
    assert "ann froze it: holidays" in cli("rollout", "show", "shop").out
    assert "it could not begin now" in cli("rollout", "start", "shop@3", "--dry-run").out
    assert cli("rollout", "thaw", "shop", "--json").json == {"service": "shop", "frozen": ""}

    assert "aborted: shop@1 answers everything" in cli("rollout", "abort", "shop", "--reason", "no").out
    assert [(s["service"], s["share"]) for s in cli("services", "--json").json] == [("shop@1", 1.0)]
    assert cli("rollout", "freeze", "shop").code == 0
    assert cli("rollout", "start", "shop@2").code == 4
