import html
from pathlib import Path
from typing import Any

import pytest

from boucle.core.errors import Unavailable
from boucle.plugins.channels.slack import SlackChannel
from boucle.ports.channel import Message
from boucle.testing.channel import ChannelContract


def checked(payload: dict[str, Any]) -> list[str]:
    """The texts of the sections, after a look at what Slack demands of a payload."""
    assert set(payload) == {"text", "blocks"}
    assert 1 <= len(payload["blocks"]) <= 50
    texts = []
    for block in payload["blocks"]:
        assert block["type"] == "section"
        text = block["text"]
        assert set(text) == {"type", "text", "verbatim"}
        assert (text["type"], text["verbatim"]) == ("mrkdwn", True)
        assert 1 <= len(text["text"]) <= 3000
        assert "<" not in text["text"]
        assert ">" not in text["text"]
        assert not [p for p in text["text"].split("&")[1:] if not p.startswith(("amp;", "lt;", "gt;"))]
        texts.append(text["text"])
    return texts


class TestSlackChannel(ChannelContract):
    plugin = SlackChannel
    whole = False

    @pytest.fixture(autouse=True)
    def _listen(self, web: Any) -> None:
        self.web = web

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": self.web.url}

    def received(self) -> list[dict[str, Any]]:
        out = []
        for got in self.web.got:
            title, about, *facts = map(html.unescape, checked(got.json))
            severity, _, subject = about.partition(" · ")
            out.append(
                {"severity": severity.strip("*"), "title": title.partition(" ")[2].strip("*"), "subject": subject,
                 "text": "\n".join(facts)}
            )  # fmt: skip
        return out


def test_nothing_becomes_a_mention_or_a_link(web: Any) -> None:
    SlackChannel.connect({"url": web.url}, Path()).send(
        Message("critical", "<!channel> & co", "<@U1>", {"see": "<http://evil|here>"})
    )
    title, about, facts = checked(web.got[0].json)
    assert title == ":rotating_light: *&lt;!channel&gt; &amp; co*"
    assert about == "*critical* · &lt;@U1&gt;"
    assert facts == "see: &lt;http://evil|here&gt;"
    assert web.got[0].json["text"] == "[critical] &lt;!channel&gt; &amp; co"
    assert web.got[0].headers["Content-Type"].startswith("application/json")


def test_what_slack_says_is_told_and_the_address_is_not(web: Any) -> None:
    web.answers = [(404, {}, b"no_service")]
    with pytest.raises(Unavailable, match="no_service") as caught:
        SlackChannel.connect({"url": web.url}, Path()).send(Message("info", "x"))
    assert "s3cret" not in str(caught.value)
    assert "services" not in str(caught.value)
