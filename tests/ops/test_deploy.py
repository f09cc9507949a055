"""Deploying: what is refused before anything is recorded, and what is left of a deploy that died."""

import time
from dataclasses import replace

import pytest

import boucle
from boucle.core.errors import NotFound
from boucle.core.records import Rollout, Service
from boucle.ops import host
from boucle.testing.target import double


@pytest.fixture
def shop(tmp_path):
    with boucle.init(tmp_path / "shop") as ws:
        boucle.register(ws, "twice", double, data=boucle.Frame.of({"x": [1, 2]}))
        yield ws


def test_an_unknown_target_leaves_no_trace(shop):
    with pytest.raises(NotFound):
        boucle.deploy(shop, "twice@1", target="moon")
    assert shop.store.find(Service) == []
    assert shop.store.find(Rollout) == []


def test_a_deploy_that_died_is_ended_later(shop):
    service = boucle.deploy(shop, "twice@1")
    began = replace(service, status="starting")
    shop.store.put(began)
    assert host.settle(shop) == []  # it may still be going on
    shop.store.put(replace(began, created=time.time() - host.ABANDONED_SECONDS - 1))
    (ended,) = host.settle(shop)
    assert ended.status == "failed"
    assert not shop.target().alive(service.handle)
