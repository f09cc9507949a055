"""The servers that other tests need do start."""

from __future__ import annotations

import urllib.parse

from servers import listening


def test_postgres(postgres: str) -> None:
    assert listening(urllib.parse.urlsplit(postgres).port or 0)


def test_redis(redis_url: str) -> None:
    assert listening(urllib.parse.urlsplit(redis_url).port or 0)
