"""A plugin by somebody else, made discoverable the way an installer would and proved by the contract that we ship."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PLUGIN = Path(__file__).with_name("boucle-tempstore")
ROOT = Path(__file__).parents[2]


def install(plugin: Path, site: Path) -> None:
    """What an installer leaves behind that matters here: the metadata with its entry points, and a way to the code."""
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    install(PLUGIN, tmp_path / "site")
    path = os.pathsep.join([str(tmp_path / "site"), str(PLUGIN / "src")])
    return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def test_a_plugin_passes_the_contract_it_was_shipped(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib",
            "-c", str(ROOT / "pyproject.toml"), "--basetemp", str(tmp_path / "base"), str(PLUGIN / "tests" / "contract.py"),
        ],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def test_without_it_installed_it_is_not_found() -> None:
    code = "from boucle.ports.lookup import lookup; lookup('store', 'temp')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "no store named 'temp'" in done.stderr


def test_nothing_of_a_plugin_is_imported_until_it_is_asked_for(environment: dict[str, str]) -> None:
    code = (
        "import sys; from boucle.ports.lookup import lookup, names\n"
        "assert 'temp' in names('store') and 'boucle_tempstore' not in sys.modules\n"
        "print(lookup('store', 'temp').__name__, lookup('check', 'weekdays').name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "TempStore weekdays\n", done.stderr


def test_it_uses_only_what_is_public() -> None:
    allowed = ("boucle.core", "boucle.ports", "boucle.testing", "boucle_tempstore")
    files = list(PLUGIN.rglob("*.py"))
    assert len(files) >= 4
    for file in files:
        for line in file.read_text().splitlines():
            word, _, rest = line.strip().partition(" ")
            if word in ("from", "import") and rest.startswith("boucle"):
                assert rest.startswith(allowed), f"{file.name}: {line}"
