"""Messages as e-mail, through an SMTP server."""

from __future__ import annotations

import contextlib
import email.policy
import html
import logging
import smtplib
import ssl
import time
from collections.abc import Mapping
from email.message import EmailMessage
from email.utils import formatdate, make_msgid, parseaddr
from pathlib import Path
from typing import Any, ClassVar, Self

from boucle.core.errors import Invalid, Unavailable
from boucle.ports.channel import Message, check_options, check_severity, told

TIMEOUT = 10.0  # seconds without an answer
_PORTS = {"starttls": 587, "tls": 465, "plain": 25}
_OPTIONS: dict[str, tuple[type, ...]] = {
    "host": (str,), "port": (int,), "security": (str,), "from": (str,), "to": (str, list), "user": (str,), "password": (str,),
}  # fmt: skip
_log = logging.getLogger("boucle.alerts")


class EmailChannel:
    """One mail per message, as text and as HTML. Those that belong together are one thread."""

    name: ClassVar[str] = "email"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._security = options.get("security", "starttls")
        self._host, self._port = options["host"], options.get("port", _PORTS[self._security])
        self._from, self._to = options["from"], options["to"]
        self._user, self._password = options.get("user", ""), options.get("password", "")

    @classmethod
    def connect(cls, options: Mapping[str, Any], root: Path) -> Self:  # noqa: ARG003  no paths
        check_options(cls.name, options, _OPTIONS, ("host", "from", "to"))
        if options.get("security", "starttls") not in _PORTS:
            raise Invalid(
                "the security of an email channel is none that is known", expected=f"one of {', '.join(_PORTS)}"
            )
        if not 0 < options.get("port", 25) < 65536:
            raise Invalid(f"the port of an email channel is {options['port']}", expected="1 to 65535")
        if ("user" in options) != ("password" in options):
            raise Invalid("an email channel has a user or a password without the other", expected="both, or neither")
        to = options["to"] if isinstance(options["to"], list) else [options["to"]]
        for address in (options["from"], *to):
            if not isinstance(address, str) or not _is_address(address):
                raise Invalid("an address of an email channel is none", expected="name@host, or Name <name@host>")
        return cls({**options, "to": to})

    def send(self, message: Message) -> None:
        check_severity(message.severity)
        mail = self._mail(message)
        try:
            with self._session() as server:
                refused = server.send_message(mail)
        except smtplib.SMTPAuthenticationError as error:  # the server's words may quote the user
            raise self._failed(f"does not take the user and password ({error.smtp_code})") from None
        except smtplib.SMTPRecipientsRefused:
            raise self._failed("takes mail for none of the addresses") from None
        except smtplib.SMTPResponseException as error:
            raise self._failed(f"answered {error.smtp_code}") from None
        except ssl.SSLCertVerificationError as error:
            raise self._failed(f"shows a certificate that is not valid: {error.verify_message}") from None
        except (smtplib.SMTPException, OSError) as error:
            raise self._failed(f"does not answer: {getattr(error, 'strerror', None) or type(error).__name__}") from None
        if refused:  # those who have it must not get it again and again
            _log.warning("%s takes no mail for %d of %d addresses", self._host, len(refused), len(self._to))

    def _failed(self, what: str) -> Unavailable:
        return Unavailable(
            f"{self._host}:{self._port} {what}", expected=f"an SMTP server that takes mail ({self._security})"
        )  # fmt: skip

    @contextlib.contextmanager
    def _session(self) -> Any:
        context = ssl.create_default_context()
        if self._security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(self._host, self._port, timeout=TIMEOUT, context=context)
        else:
            server = smtplib.SMTP(self._host, self._port, timeout=TIMEOUT)
        with server:
            if self._security == "starttls":
                server.starttls(context=context)
            if self._user:
                server.login(self._user, self._password)
            yield server

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage(policy=email.policy.SMTP)
        host = parseaddr(self._from)[1].rpartition("@")[2]
        first = message.id.partition(".")[0]
        mail["Subject"] = _clean(f"[{message.severity}] {message.title}")[:200]
        mail["From"], mail["To"] = self._from, ", ".join(self._to)
        mail["Date"] = formatdate(message.time or time.time())
        mail["Message-ID"] = f"<{message.id}@{host}>" if message.id else make_msgid(domain=host)
        if first:
            mail["References"] = f"<{first}@{host}>"
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's absence is told to us
        if message.severity == "critical":
            mail["Importance"] = "high"
        facts = {"severity": message.severity, **({"about": message.subject} if message.subject else {})}
        facts |= {str(name): told(value) for name, value in message.data.items()}
        wide = max(map(len, facts))
        text = "\n".join(f"{name:<{wide}}  {value}" for name, value in facts.items())
        mail.set_content(_sendable(f"{message.title}\n\n{text}\n"))
        rows = "".join(
            f"<tr><th align=left>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in facts.items()
        )
        page = f"<h2>{html.escape(message.title)}</h2><table cellpadding=4>{rows}</table>"
        mail.add_alternative(_sendable(f"<!doctype html><html><body>{page}</body></html>\n"), subtype="html")
        return mail


def _is_address(address: str) -> bool:
    name, _, host = parseaddr(address)[1].rpartition("@")
    return bool(name and host) and address.isprintable() and "," not in address and ";" not in address


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _clean(text: str) -> str:
    """For a header: one line, without what could end it."""
    return " ".join("".join(c if c.isprintable() else " " for c in _sendable(text)).split())
