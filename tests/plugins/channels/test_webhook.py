import base64
import datetime as dt
import hashlib
import hmac
import socket
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from boucle.core.errors import Invalid, Unavailable
from boucle.plugins.channels import posting
from boucle.plugins.channels.webhook import WebhookChannel
from boucle.ports.channel import Busy, Message
from boucle.testing.channel import MESSAGE, ChannelContract

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()


class TestWebhookChannel(ChannelContract):
    plugin = WebhookChannel

    @pytest.fixture(autouse=True)
    def _listen(self, web: Any) -> None:
        self.web = web

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": self.web.url, "secret": SECRET}

    def received(self) -> list[dict[str, Any]]:
        out = []
        for got in self.web.got:
            event, told = got.json, got.json["data"]
            moment = dt.datetime.fromisoformat(event["time"]).timestamp() if "time" in event else 0.0
            out.append(
                {"severity": told["severity"], "title": told["title"], "subject": event.get("subject", ""),
                 "data": told["facts"], "id": event["id"], "time": moment}
            )  # fmt: skip
        return out


def channel(web: Any, **options: Any) -> WebhookChannel:
    return WebhookChannel.connect({"url": web.url, **options}, Path())


def test_the_body_is_a_cloud_event(web: Any) -> None:
    channel(web, source="/shop").send(MESSAGE)
    (got,) = web.got
    assert got.headers["Content-Type"].startswith("application/cloudevents+json")
    assert got.path == "/services/T0/s3cret-path"
    assert got.json == {
        "specversion": "1.0", "id": "01ID", "source": "/shop", "type": "boucle.message", "subject": "model:churn@3",
        "time": "1970-01-01T00:00:05.500000Z", "datacontenttype": "application/json",
        "data": {"severity": "warning", "title": "drift in größe ☕", "facts": {"score": 0.7, "columns": ["a"]}},
    }  # fmt: skip


def test_the_library_of_standard_webhooks_accepts_the_signature(web: Any) -> None:
    channel(web, secret=SECRET).send(MESSAGE)
    (got,) = web.got
    known = standardwebhooks.Webhook(SECRET)
    assert known.verify(got.body, got.headers)["id"] == "01ID"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        known.verify(got.body + b" ", got.headers)


def test_the_signature_is_that_of_the_specification(web: Any) -> None:
    channel(web, secret=SECRET).send(MESSAGE)
    (got,) = web.got
    headers = {k.lower(): v for k, v in got.headers.items()}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + got.body
    expected = base64.b64encode(hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-id"] == "01ID"
    assert headers["webhook-signature"] == f"v1,{expected}"


def test_without_a_secret_nothing_is_signed(web: Any) -> None:
    channel(web).send(Message("info", "x"))
    headers = {k.lower() for k in web.got[0].headers}
    assert "webhook-id" in headers
    assert "webhook-signature" not in headers


def test_a_server_that_stumbles_is_asked_again(web: Any, pauses: list[float]) -> None:
    web.answers = [(500, {}, b""), (429, {}, b"")]
    channel(web).send(MESSAGE)
    assert pauses == [0.5, 1.5]
    assert [got.json["id"] for got in web.got] == ["01ID"] * 3


def test_after_three_tries_it_gives_up(web: Any, pauses: list[float]) -> None:
    web.answers = [(503, {}, b"")] * 5
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+ answered 503"):
        channel(web).send(MESSAGE)
    assert len(web.got) == 3


def test_a_short_wait_that_is_asked_for_is_waited(web: Any, pauses: list[float]) -> None:
    web.answers = [(429, {"Retry-After": "1"}, b"")]
    channel(web).send(MESSAGE)
    assert pauses == [1.0]


def test_a_long_wait_that_is_asked_for_is_told(web: Any, pauses: list[float]) -> None:
    web.answers = [(503, {"Retry-After": "900"}, b"")]
    with pytest.raises(Busy) as caught:
        channel(web).send(MESSAGE)
    assert caught.value.seconds == 900
    assert (len(web.got), pauses) == (1, [])


@pytest.mark.parametrize("asked", ["Wed, 21 Oct 2026 07:28:00 GMT", "-5", "nan", "soon"])
def test_a_wait_that_is_none_does_not_matter(web: Any, pauses: list[float], asked: str) -> None:
    web.answers = [(503, {"Retry-After": asked}, b"")]
    channel(web).send(MESSAGE)
    assert pauses == [0.5]


def test_a_refusal_is_final_and_gives_the_word_of_the_server(web: Any, pauses: list[float]) -> None:
    web.answers = [(403, {}, b"channel_is_archived")]
    with pytest.raises(Unavailable, match=r"answered 403 \(channel_is_archived\)"):
        channel(web).send(MESSAGE)
    assert len(web.got) == 1


def test_redirects_are_not_followed(web: Any) -> None:
    web.answers = [(302, {"Location": web.url + "/elsewhere"}, b"")]
    with pytest.raises(Unavailable, match="answered 302"):
        channel(web).send(MESSAGE)
    assert len(web.got) == 1


def test_what_a_server_says_about_the_address_is_not_shown(web: Any) -> None:
    web.url = web.url.replace("s3cret-path", "s_cret_path")
    web.answers = [(404, {}, b"s_cret_path")]
    with pytest.raises(Unavailable) as caught:
        channel(web).send(MESSAGE)
    assert "cret" not in str(caught.value)


def test_nobody_there_is_unavailable_and_the_path_not_shown(pauses: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    there = WebhookChannel.connect({"url": f"http://127.0.0.1:{port}/s3cret"}, Path())
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port} does not answer: Connection refused") as caught:
        there.send(MESSAGE)
    assert "s3cret" not in str(caught.value)
    assert pauses == [0.5, 1.5]


def test_one_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, pauses: list[float]) -> None:
    monkeypatch.setattr(posting, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        there = WebhookChannel.connect({"url": f"http://127.0.0.1:{silent.getsockname()[1]}/"}, Path())
        with pytest.raises(Unavailable, match="did not answer within"):
            there.send(MESSAGE)
    assert pauses == []  # the message may have arrived


@pytest.mark.parametrize(
    "url",
    ["ftp://host/s3cret", "file:///s3cret", "s3cret", "http://", "http://me:s3cret@host/", "http://host:s3cret/",
     "http://[s3cret/", "http://host/s3cret x", "http://höst/s3cret", "http://host/s3cret\nX-Evil: 1"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        WebhookChannel.connect({"url": url}, Path())
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("secret", ["s3cret", "whsec_", "whsec_" + base64.b64encode(b"short").decode(), "whsec_ä"])
def test_a_secret_that_is_none_is_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(Invalid) as caught:
        WebhookChannel.connect({"url": "https://host/", "secret": secret}, Path())
    assert secret.removeprefix("whsec_") not in str(caught.value) or secret == "whsec_"


def test_the_address_is_needed() -> None:
    with pytest.raises(Invalid, match="needs the option 'url'"):
        WebhookChannel.connect({}, Path())
