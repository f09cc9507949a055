import os
from pathlib import Path

import pytest

from boucle.core.errors import Invalid, NotFound
from boucle.plugins.vaults.env import EnvVault
from boucle.ports.vault import Vault
from boucle.testing.vault import VaultContract


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("BOUCLE_SECRET_")]:
        monkeypatch.delenv(name)


class TestEnvVault(VaultContract):
    @pytest.fixture(autouse=True)
    def _environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.environment = monkeypatch

    def make(self, tmp_path: Path, secrets: dict[str, str]) -> Vault:
        for name, value in secrets.items():
            self.environment.setenv("BOUCLE_SECRET_" + name.replace("/", "_").upper(), value)
        return EnvVault()


def test_a_name_becomes_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOUCLE_SECRET_DB_PASS_WORD", "x")
    vault = EnvVault()
    assert vault.get("db/pass-word") == vault.get("DB_PASS_WORD") == "x"
    assert vault.names() == ["db_pass_word"]


def test_the_error_names_the_variable() -> None:
    with pytest.raises(NotFound, match="BOUCLE_SECRET_DB_TOKEN"):
        EnvVault().get("db/token")


@pytest.mark.parametrize("name", ["", "a b", "a=b", "/a", "a\n", "ä"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(Invalid):
        EnvVault().get(name)
