from pathlib import Path

from boucle.plugins.stores.sqlite import SqliteStore
from boucle.ports.store import Store
from boucle.testing.store import StoreContract


class TestSqliteStore(StoreContract):
    def make(self, tmp_path: Path) -> Store:
        return SqliteStore(tmp_path / "store.db")
