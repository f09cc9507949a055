from pathlib import Path

from boucle.plugins.stores.memory import MemoryStore
from boucle.ports.store import Store
from boucle.testing.store import StoreContract


class TestMemoryStore(StoreContract):
    def make(self, tmp_path: Path) -> Store:
        return MemoryStore()
