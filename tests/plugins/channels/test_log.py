import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from boucle.plugins.channels.log import LogChannel
from boucle.ports.channel import Message
from boucle.testing.channel import ChannelContract


class TestLogChannel(ChannelContract):
    plugin = LogChannel

    @pytest.fixture(autouse=True)
    def _listen(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "boucle.alerts")
        self.caplog = caplog

    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {}

    def received(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(record.boucle_message) for record in self.caplog.records]  # type: ignore[attr-defined]


def test_severity_is_the_level_and_the_subject_leads(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "boucle.alerts")
    LogChannel().send(Message("critical", "down 100%", "service:churn"))
    LogChannel().send(Message("info", "up"))
    assert caplog.record_tuples == [
        ("boucle.alerts", logging.CRITICAL, "service:churn: down 100%"),
        ("boucle.alerts", logging.INFO, "up"),
    ]
