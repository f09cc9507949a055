"""What is sent, through what, how often, and what becomes of it when something fails."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from boucle.core.errors import Invalid, NotFound, Unavailable
from boucle.ops import alert
from boucle.ops.alert.sending import ATTEMPT
from boucle.plugins.channels.file import FileChannel
from boucle.ports.channel import Busy, Message
from boucle.workspace import Workspace

CHURN = "service:churn"
DAY = 86400.0


def state(shop: Any, id: str, channel: str = "file") -> dict[str, Any]:
    found: dict[str, Any] = alert.get(shop.ws, id).delivered[channel]
    return found


def test_an_opening_and_a_resolution_are_sent_once_each(shop: Any) -> None:
    opened = alert.raise_(
        shop.ws, "drift", CHURN, title="2 of 3 columns moved", onset=shop.clock.now - 60, data={"rows": 900}
    )
    assert [alert.deliver(shop.ws) for _ in range(3)] == [1, 0, 0]
    shop.pass_(10)
    alert.resolve(shop.ws, opened.id, "a new model")
    assert [alert.deliver(shop.ws) for _ in range(3)] == [1, 0, 0]
    shop.pass_(3 * DAY)
    assert alert.deliver(shop.ws) == 0
    first, last = shop.sent()
    assert first == {
        "severity": "warning", "title": "2 of 3 columns moved", "subject": CHURN, "id": f"{opened.id}.warning",
        "time": opened.opened,
        "data": {"alert": opened.id, "name": "drift", "status": "open", "count": 1, "onset": "2027-01-15T07:59:00Z",
                 "opened": "2027-01-15T08:00:00Z", "rows": 900},
    }  # fmt: skip
    assert (last["id"], last["title"]) == (f"{opened.id}.resolved", "resolved: 2 of 3 columns moved")
    assert (last["data"]["status"], last["data"]["reason"]) == ("resolved", "a new model")


def test_what_happens_again_is_not_sent_again_but_what_gets_worse_is(shop: Any) -> None:
    id = alert.raise_(shop.ws, "drift", CHURN, title="bad").id
    alert.deliver(shop.ws)
    alert.raise_(shop.ws, "drift", CHURN)
    assert alert.deliver(shop.ws) == 0
    alert.raise_(shop.ws, "drift", CHURN, severity="critical", title="worse")
    assert alert.deliver(shop.ws) == 1
    alert.raise_(shop.ws, "drift", CHURN)
    assert alert.deliver(shop.ws) == 0
    assert [(m["id"], m["title"]) for m in shop.sent()] == [(f"{id}.warning", "bad"), (f"{id}.critical", "worse")]


def test_what_stays_open_is_recalled_unless_somebody_looks_after_it(shop: Any) -> None:
    id = alert.raise_(shop.ws, "drift", CHURN, title="bad").id
    for _ in range(25):
        alert.deliver(shop.ws)
        shop.pass_(DAY / 10)
    assert shop.titles() == ["bad", "still: bad", "still: bad"]
    assert [m["id"] for m in shop.sent()] == [f"{id}.warning", f"{id}.warning.1", f"{id}.warning.2"]
    alert.acknowledge(shop.ws, id)
    shop.pass_(5 * DAY)
    assert alert.deliver(shop.ws) == 0
    alert.raise_(shop.ws, "drift", CHURN, severity="critical")
    assert alert.deliver(shop.ws) == 1


@pytest.mark.parametrize(("remind", "expected"), [("2 hours", 1), ("never", 0), ("3 days", 0)])
def test_when_to_recall_is_a_setting(shop: Any, remind: str, expected: int) -> None:
    shop.configured(f'[alerts]\nremind = "{remind}"\n[channels.file]\ntype = "file"\npath = "alerts.jsonl"\n')
    alert.raise_(shop.ws, "drift", CHURN)
    alert.deliver(shop.ws)
    shop.pass_(7300)
    assert alert.deliver(shop.ws) == expected


def test_a_channel_gets_what_it_wants(shop: Any) -> None:
    shop.configured(
        '[channels.all]\ntype = "file"\npath = "all"\nseverity = "info"\n'
        '[channels.bad]\ntype = "file"\npath = "bad"\nseverity = "critical"\n'
        '[channels.churn]\ntype = "file"\npath = "churn"\nonly = ["service:churn", "rule:*"]\n'
    )
    alert.raise_(shop.ws, "drift", CHURN, title="churn drifts")
    alert.raise_(shop.ws, "drift", "service:churn-eu", title="eu drifts", severity="critical")
    alert.raise_(shop.ws, "rule", "rule:retrain", title="rule fails")
    alert.raise_(shop.ws, "note", CHURN, title="by the way", severity="info")
    assert alert.deliver(shop.ws) == 4 + 1 + 2
    assert sorted(shop.titles("all")) == ["by the way", "churn drifts", "eu drifts", "rule fails"]
    assert shop.titles("bad") == ["eu drifts"]
    assert shop.titles("churn") == ["churn drifts", "rule fails"]


def test_who_did_not_hear_of_the_trouble_does_not_hear_of_its_end(shop: Any) -> None:
    shop.configured('[channels.bad]\ntype = "file"\npath = "bad"\nseverity = "critical"\n')
    alert.raise_(shop.ws, "drift", CHURN)
    alert.resolve(shop.ws, ("drift", CHURN))
    alert.raise_(shop.ws, "drift", "service:short", severity="critical")
    alert.resolve(shop.ws, ("drift", "service:short"))  # before anybody was told
    assert alert.deliver(shop.ws) == 0


def test_what_is_silenced_is_sent_when_the_silence_ends(shop: Any) -> None:
    alert.silence(shop.ws, CHURN, shop.clock.now + 100)
    alert.raise_(shop.ws, "drift", CHURN, title="bad")
    assert alert.deliver(shop.ws) == 0
    shop.pass_(100)
    assert alert.deliver(shop.ws) == 1
    alert.silence(shop.ws, CHURN, shop.clock.now + 100)
    alert.resolve(shop.ws, ("drift", CHURN))
    assert alert.deliver(shop.ws) == 0
    alert.unsilence(shop.ws, CHURN)
    assert alert.deliver(shop.ws) == 1
    assert shop.titles() == ["bad", "resolved: bad"]


def test_without_channels_nothing_is_sent(shop: Any) -> None:
    shop.configured("")
    alert.raise_(shop.ws, "drift", CHURN)
    assert alert.deliver(shop.ws) == 0
    assert alert.find(shop.ws)[0].delivered == {}


# --- failures ----------------------------------------------------------------------------------------------------------


def test_a_channel_that_fails_is_tried_again_ever_more_rarely(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    id = alert.raise_(shop.ws, "drift", CHURN).id
    tries: list[float] = []

    def broken(self: FileChannel, message: Message) -> None:
        tries.append(shop.clock.now)
        raise Unavailable("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(FileChannel, "send", broken)
        for _ in range(1200):
            assert alert.deliver(shop.ws) == 0
            shop.pass_(30)
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps[:7] == [30, 60, 120, 240, 480, 960, 1920]
    assert set(gaps[7:]) == {3600}
    kept = state(shop, id)
    assert (kept["attempts"], kept["error"]) == (len(tries), "the disk is full")
    shop.pass_(3600)
    assert alert.deliver(shop.ws) == 1
    assert state(shop, id) == {"severity": "warning", "reminders": 0, "time": shop.clock.now}


def test_one_that_names_a_time_is_left_alone_until_then(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    id = alert.raise_(shop.ws, "drift", CHURN).id

    def busy(self: FileChannel, message: Message) -> None:
        raise Busy("not now", seconds=900)

    monkeypatch.setattr(FileChannel, "send", busy)
    alert.deliver(shop.ws)
    assert state(shop, id)["next"] == shop.clock.now + 900


def test_a_channel_that_fails_keeps_the_others_from_nothing(shop: Any, tmp_path: Path) -> None:
    shop.configured(
        '[channels.a]\ntype = "file"\npath = "nowhere/alerts"\n[channels.b]\ntype = "flie"\n[channels.c]\ntype = 5\n'
        '[channels.d]\ntype = "file"\npath = "d"\nseverity = "loud"\n[channels.e]\ntype = "slack"\nurl = "vault:no/such"\n'
        '[channels.z]\ntype = "file"\npath = "z"\n'
    )
    ids = [alert.raise_(shop.ws, "drift", f"service:{i}").id for i in range(3)]
    assert alert.deliver(shop.ws) == 3
    assert len(shop.sent("z")) == 3
    kept = alert.get(shop.ws, ids[0]).delivered
    assert "No such file" in kept["a"]["error"]
    assert "no channel named 'flie'" in kept["b"]["error"]
    assert "[channels.c]: it has no type" in kept["c"]["error"]
    assert "[channels.d]: 'loud' is not a severity" in kept["d"]["error"]
    assert "no secret 'no/such'" in kept["e"]["error"]
    # One failure is enough for a turn.
    assert set(alert.get(shop.ws, ids[1]).delivered) == {"z"}


def test_killed_while_sending_it_is_sent_again_with_the_same_id(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alert.raise_(shop.ws, "drift", CHURN, title="bad")
    send = FileChannel.send

    def killed(self: FileChannel, message: Message) -> None:
        send(self, message)
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(FileChannel, "send", killed)
        with pytest.raises(SystemExit):
            alert.deliver(shop.ws)
    assert alert.deliver(shop.ws) == 0  # it might still be on its way
    shop.pass_(ATTEMPT)
    assert [alert.deliver(shop.ws) for _ in range(2)] == [1, 0]
    first, second = shop.sent()
    assert first == second


def test_killed_while_sending_and_then_over_the_end_is_told(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alert.raise_(shop.ws, "drift", CHURN, title="bad")

    def killed(self: FileChannel, message: Message) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(FileChannel, "send", killed)
        with pytest.raises(SystemExit):
            alert.deliver(shop.ws)
    alert.resolve(shop.ws, ("drift", CHURN))
    shop.pass_(ATTEMPT)
    assert [alert.deliver(shop.ws) for _ in range(2)] == [1, 0]
    assert shop.titles() == ["resolved: bad"]


def test_what_happens_while_a_message_is_sent_is_not_lost(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    id = alert.raise_(shop.ws, "drift", CHURN).id
    send = FileChannel.send

    def slow(self: FileChannel, message: Message) -> None:
        send(self, message)
        if ".resolved" not in message.id:
            alert.raise_(shop.ws, "drift", CHURN)
            alert.resolve(shop.ws, id)

    monkeypatch.setattr(FileChannel, "send", slow)
    assert [alert.deliver(shop.ws) for _ in range(3)] == [1, 1, 0]
    kept = alert.get(shop.ws, id)
    assert (kept.count, kept.status) == (2, "resolved")


def test_threads_that_deliver_at_once_send_each_message_once(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(10):
        alert.raise_(shop.ws, "drift", f"service:{i}")
    start, sent = threading.Barrier(4), list[int]()

    def work() -> None:
        with Workspace(shop.ws.settings, shop.clock) as ws:
            start.wait()
            sent.append(alert.deliver(ws))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sent) == 10
    assert len({m["id"] for m in shop.sent()}) == len(shop.sent()) == 10


def test_processes_that_deliver_at_once_send_each_message_once(shop: Any) -> None:
    for i in range(20):
        alert.raise_(shop.ws, "drift", f"service:{i}")
    code = (
        "import sys, boucle\nfrom boucle.ops.alert import deliver\n"
        "ws = boucle.open(sys.argv[1])\nprint('ready', flush=True)\nsys.stdin.readline()\nprint(deliver(ws))"
    )
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(shop.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    sent = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        sent.append(int(worker.communicate(timeout=60)[0]))
        assert worker.returncode == 0
    assert sum(sent) == 20
    assert len({m["id"] for m in shop.sent()}) == len(shop.sent()) == 20


# --- settings and secrets ----------------------------------------------------------------------------------------------


def test_secrets_come_from_the_vault_and_are_shown_nowhere(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUCLE_SECRET_PLACE", "s3cret")
    (shop.folder / "s3cret").mkdir()  # so that the file channel fails, and says where
    shop.configured('[channels.file]\ntype = "file"\npath = "vault:place"\n')
    (route,) = alert.routes(shop.ws)
    assert "s3cret" not in repr(route)
    id = alert.raise_(shop.ws, "drift", CHURN).id
    assert alert.deliver(shop.ws) == 0
    assert "***: Is a directory" in state(shop, id)["error"]
    with pytest.raises(Unavailable, match="Is a directory") as caught:
        alert.test(shop.ws, "file")
    assert "s3cret" not in str(caught.value)
    shop.configured('[channels.file]\ntype = "webhook"\nurl = "vault:place"\n')
    with pytest.raises(Invalid) as refused:
        alert.test(shop.ws, "file")
    assert "s3cret" not in str(refused.value)
    assert b"s3cret" not in b"".join(p.read_bytes() for p in shop.folder.rglob("*") if p.is_file())
    (shop.folder / "s3cret").rmdir()
    shop.configured('[channels.file]\ntype = "file"\npath = "vault:place"\n')
    shop.pass_(60)
    assert alert.deliver(shop.ws) == 1
    assert len(shop.sent("s3cret")) == 1


def test_a_test_goes_through_whatever_the_channel_wants(shop: Any) -> None:
    shop.configured('[channels.file]\ntype = "file"\npath = "alerts.jsonl"\nseverity = "critical"\nonly = ["rule:x"]\n')
    message = alert.test(shop.ws, "file")
    (got,) = shop.sent()
    assert (got["id"], got["severity"], got["data"]["actor"]) == (message.id, "info", "ann")
    with pytest.raises(NotFound, match="no channel named 'flie'"):
        alert.test(shop.ws, "flie")


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('channels = 3\n', "channels is 3"), ('[alerts]\nremnid = "1 day"\n', "no key 'remnid'"),
        ('[alerts]\nremind = "soon"\n', "soon"), ("[alerts]\nremind = 5\n", "5"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_read_are_told(shop: Any, toml: str, said: str) -> None:
    shop.configured(toml)
    with pytest.raises(Invalid, match=said):
        alert.deliver(shop.ws)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("c = 3", "no type"), ('[channels.c]\npath = "x"', "no type"), ('[channels.c]\ntype = "log"\nonly = [3]', "only"),
        ('[channels.c]\ntype = "log"\nseverity = "loud"', "loud"), ('[channels.c]\ntype = "log"\nseverity = 3', "3"),
        ('[channels."a b"]\ntype = "log"', "a b"), ('[channels.c]\ntype = "log"\nlevel = "x"', "no option 'level'"),
    ],
)  # fmt: skip
def test_a_channel_that_makes_no_sense_says_why_when_it_is_tried(shop: Any, toml: str, said: str) -> None:
    shop.configured(toml if toml.startswith("[") else f"[channels]\n{toml}")
    (route,) = alert.routes(shop.ws)
    with pytest.raises(Invalid, match=said):
        alert.test(shop.ws, route.name)


def test_what_is_kept_can_be_read_as_json(shop: Any) -> None:
    id = alert.raise_(shop.ws, "drift", CHURN, data={"bad": float("nan")}).id
    alert.deliver(shop.ws)
    assert json.loads(json.dumps(alert.get(shop.ws, id).delivered)) == alert.get(shop.ws, id).delivered
