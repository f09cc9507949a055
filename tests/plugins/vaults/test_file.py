import json
import subprocess
import sys
from pathlib import Path

import pytest

from boucle.core.errors import Corrupt, Invalid, Refused, Unavailable
from boucle.plugins.vaults.file import FileVault
from boucle.ports.vault import Vault
from boucle.testing.vault import VaultContract


class TestFileVault(VaultContract):
    def make(self, tmp_path: Path, secrets: dict[str, str]) -> Vault:
        vault = FileVault(tmp_path / "new" / "vault.json")
        for name, value in secrets.items():
            vault.set(name, value)
        return vault


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "vault.json"
    FileVault(path).set("a", "x")
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text()) == {"a": "x"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "vault.json"
    vault = FileVault(path)
    vault.set("a", "never-shown")
    path.chmod(mode)
    for attempt in (lambda: vault.get("a"), vault.names, lambda: vault.set("b", "y"), lambda: vault.remove("a")):
        with pytest.raises(Refused, match="chmod 600") as caught:
            attempt()
        assert "never-shown" not in str(caught.value)
    path.chmod(0o600)
    assert vault.names() == ["a"]


@pytest.mark.parametrize("content", ["never-shown{", '["never-shown"]', '{"a": 1}', ""])
def test_a_file_that_is_no_vault_is_corrupt_and_not_shown(tmp_path: Path, content: str) -> None:
    path = tmp_path / "vault.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(Corrupt) as caught:
        FileVault(path).get("a")
    assert "never-shown" not in str(caught.value)
    with pytest.raises(Corrupt):
        FileVault(path).set("b", "y")
    assert path.read_text() == content


def test_a_value_that_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid):
        FileVault(tmp_path / "vault.json").set("a", 5)  # type: ignore[arg-type]
    assert FileVault(tmp_path / "vault.json").names() == []


def test_a_folder_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable):
        FileVault(tmp_path / "file" / "vault.json").set("a", "x")


def test_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from boucle.plugins.vaults.file import FileVault\n"
        "for i in range(10): FileVault(sys.argv[1]).set(f'{sys.argv[2]}-{i}', 'x')"
    )
    path = tmp_path / "vault.json"
    workers = [subprocess.Popen([sys.executable, "-c", code, str(path), str(w)]) for w in range(4)]
    assert [worker.wait(60) for worker in workers] == [0] * 4
    assert len(FileVault(path).names()) == 40
