"""The local engine keeps the contract of engines."""

from boucle.plugins.engines.local import LocalEngine
from boucle.testing.engine import EngineContract


class TestLocalEngine(EngineContract):
    make = staticmethod(LocalEngine)
