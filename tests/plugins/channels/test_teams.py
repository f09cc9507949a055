from pathlib import Path
from typing import Any

import pytest

from boucle.plugins.channels.teams import TeamsChannel
from boucle.ports.channel import Message
from boucle.testing.channel import ChannelContract


def checked(payload: dict[str, Any]) -> list[list[str]]:
    """The runs of each line, after a look at what a workflow demands of a payload."""
    assert payload["type"] == "message"
    (attachment,) = payload["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert card["$schema"] == "http://adaptivecards.io/schemas/adaptive-card.json"
    lines = []
    for block in card["body"]:
        assert block["type"] == "RichTextBlock"  # shows text literally, unlike a TextBlock
        assert all(run["type"] == "TextRun" and run["text"] for run in block["inlines"])
        lines.append([run["text"] for run in block["inlines"]])
    return lines


class TestTeamsChannel(ChannelContract):
    plugin = TeamsChannel
    whole = False

    @pytest.fixture(autouse=True)
    def _listen(self, web: Any) -> None:
        self.web = web
        web.answers = [(202, {}, b"")] * 60  # what a workflow says

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"url": self.web.url + "?sig=s3cret"}

    def received(self) -> list[dict[str, Any]]:
        out = []
        for got in self.web.got:
            assert got.path.endswith("?sig=s3cret")
            assert len(got.body) < 28 * 1024
            (title,), (about,), *facts = checked(got.json)
            severity, _, subject = about.partition(" · ")
            text = "\n".join(name + value for name, value in facts)
            out.append({"severity": severity, "title": title, "subject": subject, "text": text})
        return out


def test_the_colour_is_the_severity_and_empty_facts_have_a_mark(web: Any) -> None:
    TeamsChannel.connect({"url": web.url}, Path()).send(Message("critical", "[x](http://evil)", "", {"note": ""}))
    title, _, fact = web.got[0].json["attachments"][0]["content"]["body"]
    assert title["inlines"][0]["text"] == "[x](http://evil)"
    assert title["inlines"][0]["color"] == "attention"
    assert [run["text"] for run in fact["inlines"]] == ["note: ", "-"]
