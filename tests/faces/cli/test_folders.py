import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"numpy", "pyarrow", "pandas", "rich", "asyncio", "tempfile", "subprocess", "concurrent", "email", "pyfastcdc"}


@pytest.fixture
def pets(home: Path, cli) -> Path:
    assert cli("init").code == 0
    (home / "pets" / "cats").mkdir(parents=True)
    (home / "pets" / "cats" / "tom.txt").write_text("meow")
    (home / "pets" / "rex.txt").write_text("woof")
    return home / "pets"


def test_from_a_folder_to_versions_and_back(pets: Path, cli) -> None:
    said = cli("data", "snapshot", "pets", "--name", "pets", "--json").json
    assert (said["dataset"], said["new"], said["files"], said["bytes"]) == ("pets@1", True, 2, 8)
    assert said["added"] == ["cats/tom.txt", "rex.txt"]
    assert "no new version" in cli("data", "snapshot", "pets", "--name", "pets").out
    (pets / "rex.txt").write_text("changed")
    assert "modified  rex.txt" in cli("data", "status", "pets").out
    assert cli("data", "snapshot", "pets", "--name", "pets", "--dry-run").out.startswith("nothing was stored\n")
    assert cli("data", "status", "pets", "--json").json["modified"] == ["rex.txt"]
    kept = cli("data", "checkout", "pets@1", "--json").json
    assert (kept["kept"], kept["written"]) == (["rex.txt"], [])
    assert cli("data", "snapshot", "pets", "--name", "pets").code == 0
    assert "would hold pets@1" in cli("data", "checkout", "pets@1", "--dry-run").out
    assert (pets / "rex.txt").read_text() == "changed"
    done = cli("data", "checkout", "dataset:pets@1", "--json").json
    assert (done["written"], done["how"]) == (["rex.txt"], {"patch": 1})
    assert (pets / "rex.txt").read_text() == "woof"
    cli("data", "snapshot", "pets", "--name", "pets")
    (pets / "rex.txt").write_text("not kept anywhere")
    refused = cli("data", "checkout", "pets@2", "--json")
    assert (refused.code, refused.error["type"]) == (5, "Conflict")
    assert (pets / "rex.txt").read_text() == "not kept anywhere"
    assert cli("data", "log", "pets").code == 0


def test_names_that_would_change_the_terminal_are_escaped(pets: Path, cli) -> None:
    (pets / "\x1b[31mred\nline").write_text("")
    Path(os.fsdecode(os.fsencode(pets) + b"/\xff")).write_text("")
    out = cli("data", "status", "pets").out
    assert "\x1b" not in out
    assert r"\x1b[31mred\nline" in out
    assert r"\udcff" in out
    assert len(cli("data", "status", "pets", "--json").json["added"]) == 4


def test_what_is_wrong_is_said(pets: Path, cli, home: Path) -> None:
    assert cli("data", "snapshot", "nowhere", "--name", "x").code == 3
    assert cli("data", "snapshot", "pets", "--name", "no name").code == 2
    assert cli("data", "snapshot", ".boucle", "--name", "x").code == 2
    assert cli("data", "checkout", "nothing@1").code == 3
    assert cli("data", "checkout", "pets@1", "--link", "magic").code == 2


@pytest.mark.parametrize(
    ("arguments", "also"),
    [
        (["status", "pets"], {"sqlite3"}),
        (["snapshot", "pets", "--name", "pets"], set()),
        (["checkout", "pets@1", "pets"], set()),
    ],
)
def test_nothing_heavy_is_loaded(pets: Path, cli, home: Path, arguments: list[str], also: set[str]) -> None:
    assert cli("data", "snapshot", "pets", "--name", "pets").code == 0
    code = (
        f"import sys\nfrom boucle.faces.cli.main import main\nassert main({['data', *arguments]!r}) == 0\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, cwd=home
    )
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "boucle" in loaded
    assert not (HEAVY | also) & loaded
