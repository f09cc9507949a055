"""The contract of a vault, as tests; a plugin proves itself by subclassing it and giving `make`."""

from __future__ import annotations

from pathlib import Path

import pytest

from boucle.core.errors import BoucleError, NotFound, Refused
from boucle.ports.vault import Vault

SECRETS = {"api_key": "s3cret-value", "db/password": "päss wörd\n☕", "empty": ""}


class VaultContract:
    """What every vault must do. Subclasses give `make`."""

    def make(self, tmp_path: Path, secrets: dict[str, str]) -> Vault:
        """A vault that holds these secrets and no others."""
        raise AssertionError(f"give the vault to test, for {tmp_path}, with {list(secrets)}")

    @pytest.fixture
    def vault(self, tmp_path: Path) -> Vault:
        return self.make(tmp_path, SECRETS)

    def test_it_says_what_it_is(self, vault: Vault) -> None:
        assert vault.name
        assert vault.capabilities <= {"write"}

    @pytest.mark.parametrize("name", SECRETS)
    def test_a_secret_comes_back(self, vault: Vault, name: str) -> None:
        assert vault.get(name) == SECRETS[name]

    def test_names_are_sorted_and_complete(self, vault: Vault) -> None:
        names = vault.names()
        assert names == sorted(names)
        assert len(names) == len(SECRETS)

    def test_what_is_not_there_is_not_found_and_no_value_shown(self, vault: Vault) -> None:
        with pytest.raises(NotFound) as caught:
            vault.get("api_kez")
        assert "api_kez" in str(caught.value)
        assert "s3cret-value" not in str(caught.value)

    def test_no_secret_is_shown(self, vault: Vault) -> None:
        vault.get("api_key")
        assert "s3cret-value" not in f"{vault!r} {vault}"

    def test_an_empty_vault_is_empty(self, tmp_path: Path) -> None:
        vault = self.make(tmp_path, {})
        assert vault.names() == []
        with pytest.raises(NotFound):
            vault.get("anything")

    def test_writing_works_or_is_refused(self, vault: Vault) -> None:
        if "write" not in vault.capabilities:
            with pytest.raises(Refused):
                vault.set("new", "never-shown")
            with pytest.raises(Refused):
                vault.remove("api_key")
            assert vault.get("api_key") == SECRETS["api_key"]
            return
        vault.set("new/one", "first")
        vault.set("new/one", "second")
        assert vault.get("new/one") == "second"
        assert vault.get("api_key") == SECRETS["api_key"]
        assert vault.remove("new/one")
        assert not vault.remove("new/one")
        with pytest.raises(NotFound):
            vault.get("new/one")
        assert len(vault.names()) == len(SECRETS)

    def test_an_error_of_writing_shows_no_value(self, vault: Vault) -> None:
        with pytest.raises(BoucleError) as caught:
            vault.set("", "never-shown")
        assert "never-shown" not in str(caught.value)
