"""Against a real SMTP server (aiosmtpd), plain, with STARTTLS and with TLS."""

from __future__ import annotations

import email
import email.policy
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

from boucle.core.errors import Invalid, Unavailable
from boucle.plugins.channels.email import EmailChannel
from boucle.ports.channel import Message
from boucle.testing.channel import MESSAGE, ChannelContract

ADDRESSES = {"from": "Boucle <alerts@shop.example>", "to": ["ann@shop.example", "Bo <bo@shop.example>"]}


class Post:
    """Keeps mail; refuses the addresses in `unknown`."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.to: list[list[str]] = []
        self.users: list[str] = []
        self.unknown: set[str] = set()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.unknown:
            return "550 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append(mail)
        self.to.append(envelope.rcpt_tos)
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.users.append(data.login.decode())
        return AuthResult(success=data.password == b"s3cret-password", handled=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Post, int]]]:
    """Starts servers on free ports."""
    running: list[Controller] = []

    def start(**options: Any) -> tuple[Post, int]:
        post = Post()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        if options.pop("auth", False):
            options |= {"authenticator": post.authenticate, "auth_required": True}
        controller = Controller(post, hostname="127.0.0.1", port=port, **options)
        controller.start()
        running.append(controller)
        return post, port

    yield start
    for controller in running:
        controller.stop()


class TestEmailChannel(ChannelContract):
    plugin = EmailChannel
    whole = False

    @pytest.fixture(autouse=True)
    def _listen(self, serve: Any) -> None:
        self.post, self.port = serve()

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"host": "127.0.0.1", "port": self.port, "security": "plain", **ADDRESSES}

    def received(self) -> list[dict[str, Any]]:
        out = []
        for mail in self.post.mails:
            plain, page = mail.iter_parts()
            assert (plain.get_content_type(), page.get_content_type()) == ("text/plain", "text/html")
            title, _, text = "\n".join(plain.get_content().splitlines()).partition("\n\n")
            facts = dict(line.split(None, 1) for line in text.splitlines() if not line.startswith(("fact", "text")))
            title = " ".join(title.split())
            assert " ".join(mail["Subject"].split()) == f"[{facts['severity']}] {title}"
            out.append(
                {"severity": facts["severity"], "title": title, "subject": facts.get("about", ""), "text": text}
            )  # fmt: skip
        return out


def channel(port: int, **options: Any) -> EmailChannel:
    return EmailChannel.connect({"host": "127.0.0.1", "port": port, **ADDRESSES, **options}, Path())


def test_it_goes_to_all_and_says_that_it_is_automatic(serve: Any) -> None:
    post, port = serve()
    channel(port, security="plain").send(
        Message("critical", "down <b>", "service:churn", {"why": "<i>"}, "01ID.x", 5.0)
    )
    (mail,) = post.mails
    assert post.to == [["ann@shop.example", "bo@shop.example"]]
    assert (mail["From"], mail["Importance"], mail["Auto-Submitted"]) == (
        "Boucle <alerts@shop.example>", "high", "auto-generated",
    )  # fmt: skip
    assert mail["Date"].datetime.timestamp() == 5.0
    page = list(mail.iter_parts())[1].get_content()
    assert "down &lt;b&gt;" in page
    assert "<i>" not in page


def test_messages_that_belong_together_are_one_thread(serve: Any) -> None:
    post, port = serve()
    mine = channel(port, security="plain")
    for id in ("01A.warning", "01A.resolved", "01A.resolved", "01B.warning", ""):
        mine.send(Message("info", "x", id=id))
    assert [m["Message-ID"] for m in post.mails][:4] == [
        "<01A.warning@shop.example>", "<01A.resolved@shop.example>", "<01A.resolved@shop.example>",
        "<01B.warning@shop.example>",
    ]  # fmt: skip
    assert [m["References"] for m in post.mails] == ["<01A@shop.example>"] * 3 + ["<01B@shop.example>", None]


def test_a_title_cannot_add_a_header(serve: Any) -> None:
    post, port = serve()
    channel(port, security="plain").send(Message("info", "x\r\nBcc: eve@evil.example\r\n\r\nbody"))
    assert post.to == [["ann@shop.example", "bo@shop.example"]]
    assert post.mails[0]["Bcc"] is None


@pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning")  # the server does not count TLS from the beginning
@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_over_tls_with_a_password(
    serve: Any, certificate: Any, monkeypatch: pytest.MonkeyPatch, security: str
) -> None:  # fmt: skip
    chain, key = certificate("localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    how = {"ssl_context": context} if security == "tls" else {"tls_context": context, "require_starttls": True}
    post, port = serve(auth=True, auth_require_tls=security != "tls", **how)
    mine = channel(port, security=security, user="boucle", password="s3cret-password")
    with pytest.raises(Unavailable, match="certificate"):
        mine.send(MESSAGE)  # nobody we know has signed it
    assert (post.mails, post.users) == ([], [])
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    mine.send(MESSAGE)
    assert len(post.mails) == 1
    assert post.users == ["boucle"]


@pytest.mark.filterwarnings("ignore:Requiring AUTH:UserWarning")  # what the server says to its owner
def test_a_wrong_password_is_told_and_not_shown(serve: Any) -> None:
    post, port = serve(auth=True, auth_require_tls=False)
    with pytest.raises(Unavailable, match="user and password") as caught:
        channel(port, security="plain", user="boucle", password="wr0ng").send(MESSAGE)
    assert "wr0ng" not in str(caught.value)
    assert post.mails == []
    channel(port, security="plain", user="boucle", password="s3cret-password").send(MESSAGE)
    assert len(post.mails) == 1


def test_a_server_without_tls_gets_nothing_unless_plain_is_said(serve: Any) -> None:
    post, port = serve()
    with pytest.raises(Unavailable):
        channel(port, user="boucle", password="s3cret-password").send(MESSAGE)
    assert (post.mails, post.users) == ([], [])


def test_addresses_that_are_refused(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    post, port = serve()
    post.unknown = {"bo@shop.example"}
    with caplog.at_level(logging.WARNING, "boucle.alerts"):
        channel(port, security="plain").send(MESSAGE)
    assert post.to == [["ann@shop.example"]]
    assert "1 of 2 addresses" in caplog.text
    post.unknown |= {"ann@shop.example"}
    with pytest.raises(Unavailable, match="none of the addresses"):
        channel(port, security="plain").send(MESSAGE)


def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port} does not answer: Connection refused"):
        channel(port).send(MESSAGE)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"security": "ssl"}, "security"), ({"user": "a"}, "without the other"), ({"password": "s3cret"}, "without"),
        ({"port": 70000}, "port"), ({"port": True}, "port"), ({"to": "nobody"}, "address"), ({"to": [1]}, "address"),
        ({"to": "a@b\nBcc: c@d"}, "address"), ({"from": "@"}, "address"), ({"hots": "x"}, "expected: 'host'"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said) as caught:
        EmailChannel.connect({"host": "mail.example", **ADDRESSES, **options}, Path())
    assert "s3cret" not in str(caught.value)
