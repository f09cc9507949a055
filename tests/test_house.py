"""House rules that no linter knows: what an import may cost, what must be documented, how files are named."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from boucle.core import errors
from boucle.faces.cli.main import COMMANDS
from boucle.ports.lookup import FAMILIES
from boucle.settings import CHOICES, Settings

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "boucle"
DOCS = ROOT / "docs"
MOST_LINES = 600
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc", "tools", "stuff"}
HEAVY = ("numpy", "pyarrow", "pandas", "sklearn", "scipy", "skops", "rich", "uvicorn", "sqlite3", "polars", "asyncio")


def loaded_by(code: str) -> set[str]:
    """The top-level modules in a new process after it ran some code."""
    program = f"import sys\n{code}\nsys.stderr.write(' '.join(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_importing_boucle_imports_nothing_but_python() -> None:
    before, after = loaded_by("pass"), loaded_by("import boucle")
    third_party = after - before - set(sys.stdlib_module_names) - {"boucle"}
    assert not third_party
    assert not {"asyncio", "sqlite3", "subprocess", "json"} & (after - before)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["demo", "--help"], ["no-such-command"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import contextlib, io\nfrom boucle.faces.cli.main import main\n"
        "with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()), "
        f"contextlib.redirect_stderr(io.StringIO()):\n    main({arguments!r})"
    )
    loaded = loaded_by(code)
    assert "boucle" in loaded
    assert not set(HEAVY) & loaded


def test_every_public_name_can_be_imported() -> None:
    import boucle

    assert set(boucle.__all__) | {"__version__"} == set(dir(boucle))
    for name in boucle.__all__:
        assert getattr(boucle, name).__doc__, f"boucle.{name} has no docstring"


def pages() -> dict[str, str]:
    found = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in DOCS.rglob("*.md")}
    return {**found, "README.md": (ROOT / "README.md").read_text(encoding="utf-8")}


def examples() -> str:
    """All commands of console blocks that are run."""
    out = []
    for text in pages().values():
        for before, block in re.findall(r"(<!-- not run:[^>]*-->\n)?```console\n(.*?)```", text, re.DOTALL):
            out += [line[2:] for line in block.splitlines() if line.startswith(("$ ", "> ")) and not before]
    return "\n".join(out)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_documented_and_has_an_example(command: str) -> None:
    assert f"## boucle {command}\n" in pages()["docs/cli.md"]
    assert re.search(rf"\bboucle {command}\b", examples()), f"no example runs `boucle {command}`"


def test_the_reference_of_the_command_line_is_as_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, DOCS / "generate.py", "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_public_function_is_mentioned() -> None:
    import boucle

    text = "\n".join(pages().values())
    missing = [n for n in boucle.__all__ if not re.search(rf"\b{n}\b", text)]
    assert not missing


@pytest.mark.parametrize("setting", CHOICES)
def test_every_setting_is_documented(setting: str) -> None:
    row = re.search(rf"^\| `{setting}` \| (.+?) \| (.+) \|$", pages()["docs/settings.md"], re.MULTILINE)
    assert row, f"docs/settings.md has no row for {setting}"
    default = next(f.default for f in dataclasses.fields(Settings) if f.name == setting)
    assert row[1] == (f"`{default}`" if default != "" else "the user's name")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_port_a_contract_and_a_section(family: str) -> None:
    name = family[:1].upper() + family[1:]
    port = importlib.import_module(f"boucle.ports.{family}")
    assert inspect.isclass(getattr(port, name))
    suite = importlib.import_module(f"boucle.testing.{family}")
    contract = getattr(suite, f"{name}Contract")
    assert [m for m in dir(contract) if m.startswith("test_")]
    section = re.search(rf"^### {family}\n(.*?)(?=^##)", pages()["docs/plugins.md"], re.MULTILINE | re.DOTALL)
    assert section, f"docs/plugins.md has no section {family}"
    assert f"boucle.ports.{family}.{name}" in section[1]
    assert f"{name}Contract" in section[1]
    from boucle.ports.lookup import names

    assert set(names(family)) <= set(re.findall(r"`([a-z][a-z0-9]*)`", section[1])) | {"temp", "weekdays"}


def test_every_error_has_its_exit_code_in_the_pages() -> None:
    text = pages()["docs/errors.md"]
    classes = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, errors.BoucleError)]
    assert len(classes) > 5
    for cls in classes:
        builtin = next(b for b in cls.__mro__[1:] if b.__module__ == "builtins")
        assert f"| `{cls.__name__}` | `{builtin.__name__}` | {cls.exit_code} |" in text


def test_every_mission_row_of_a_page_is_in_the_overview() -> None:
    one = r"(?:[A-Z]\d+(?:\.\d+)?|\d+\.\d+\.\d+)"
    rows = re.compile(rf"^\| ({one}(?:, {one})*) \|", re.MULTILINE)
    overview = {r for found in rows.findall(pages()["docs/mission.md"]) for r in found.split(", ")}
    for name, text in pages().items():
        for found in rows.findall(text):
            assert set(found.split(", ")) <= overview, f"{name}: {found}"


SOURCES = sorted(SOURCE.rglob("*.py"))


def test_files_have_names_that_say_something() -> None:
    assert not [p for p in [*SOURCES, *(p for p in SOURCE.rglob("*") if p.is_dir())] if p.stem.lower() in VAGUE]


def test_no_file_is_long() -> None:
    lines = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").count("\n") for p in SOURCES}
    assert not {name: n for name, n in lines.items() if n > MOST_LINES}


def test_every_module_says_what_it_is() -> None:
    silent = [
        p
        for p in SOURCES
        if (text := p.read_text(encoding="utf-8")).strip() and not text.lstrip("# \n").startswith(('"""', "ruff"))
    ]
    assert not silent


def test_what_ci_can_have_it_has() -> None:
    """Tests that need a browser are skipped without one; `.ci/run` installs it, so in CI that must not happen."""
    if os.environ.get("CI") == "true" and Path("/usr/bin/apt-get").exists() and os.geteuid() == 0:
        assert Path("/usr/bin/chromium").exists()


def test_the_readme_example_is_short() -> None:
    block = re.search(r"```python\n(.*?)```", pages()["README.md"], re.DOTALL)
    assert block
    assert len([line for line in block[1].splitlines() if line.strip()]) <= 15
