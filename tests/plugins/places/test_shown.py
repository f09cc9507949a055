"""URLs as they may be written down."""

from __future__ import annotations

import pytest

from boucle.data import stream
from boucle.plugins.sources import sql
from boucle.ports.place import shown


@pytest.mark.parametrize("show", [shown, stream.shown, sql.shown], ids=lambda f: f.__module__)
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:SECRET@h/db",
        "postgresql://u:SECRET/x@h/db",
        "postgresql://u:a#SECRET@h/db",
        "postgresql://u:a?SECRET@h/db",
        "postgresql://u:SECRET@@h/db",
        "redis://:SECRET/@h/0",
        "kafka://u:SECRET/z@h:9/t",
        "kafka://h:9/t?sasl.password=SECRET",
        "mongodb://u:SECRET/@a:1,b:2/db",
        "https://SECRET@h/p",
        "postgresql://h/db?sslpassword=SECRET",
    ],
)
def test_no_secret_is_shown(show, url):
    assert "SECRET" not in show(url)


@pytest.mark.parametrize("url", ["mqtt://h:1883/a/#", "mqtt://h/a@b/#", "kafka://a:1,b:2/t", "nats://[::1]:4222/x.>"])
def test_the_rest_of_the_url_of_a_stream_stays(url):
    assert stream.shown(url) == url


@pytest.mark.parametrize("url", ["https://h/a@b/c", "s3://bucket/x@y", "file:///tmp/a@b", "abfss://c@acc.dfs/x"])
def test_the_rest_of_the_url_of_a_place_stays(url):
    assert shown(url) == url
