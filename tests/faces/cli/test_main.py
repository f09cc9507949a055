"""The command line itself: help, usage, errors, exit codes, and that it starts fast."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from boucle.core.errors import BoucleError, Conflict, Corrupt, Invalid, MissingExtra, NotFound, Refused, Unavailable
from boucle.faces.cli.main import COMMANDS, build


@pytest.mark.parametrize("arguments", [(), ("-h",), ("--help",)])
def test_the_overview_names_every_command(cli, arguments):
    said = cli(*arguments)
    assert said.code == 0
    assert all(f"  {name} " in said.out for name in COMMANDS)


def test_version(cli):
    import boucle

    assert cli("--version").out == f"boucle {boucle.__version__}\n"


def leaves(parser, path=()):
    import argparse

    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        return [path]
    return [leaf for a in below for name, sub in a.choices.items() for leaf in leaves(sub, (*path, name))]


def test_every_command_has_help_json_and_a_project(cli):
    for path in leaves(build()):
        said = cli(*path, "--help")
        assert said.code == 0, path
        assert "--json" in said.out, path
        assert "--project" in said.out, path


@pytest.mark.parametrize(
    ("given", "near"),
    [("modles", "models"), ("depoy", "deploy"), ("runn", "run"), ("xyzzy", None)],
)
def test_an_unknown_command_is_told_the_nearest(cli, given, near):
    said = cli(given)
    assert said.code == 2
    assert f"no command {given!r}" in said.err
    assert (f"boucle {near}" in said.err) if near else ("did you mean" not in said.err)


@pytest.mark.parametrize(
    "arguments",
    [("data",), ("data", "frobnicate"), ("promote", "a"), ("runs", "list", "--limit", "many"), ("new", "x")],
)
def test_usage_errors(cli, arguments):
    assert cli(*arguments).code == 2


@pytest.mark.parametrize(
    "error", [BoucleError, Invalid, NotFound, Refused, Conflict, Corrupt, Unavailable, MissingExtra]
)
def test_every_error_has_its_exit_code_and_three_parts(cli, home, monkeypatch, error):
    def fail(args):
        raise error("what", expected="expected", fix="fix")

    monkeypatch.setattr("boucle.faces.cli.project.doctor", fail)
    said = cli("doctor")
    assert (said.code, said.out) == (error.exit_code, "")
    assert said.err == "error: what\n  expected: expected\n  to do:    fix\n"
    said = cli("doctor", "--json")
    assert said.error == {"type": error.__name__, "what": "what", "expected": "expected", "fix": "fix"}


def test_exit_codes_are_distinct():
    kinds = (BoucleError, Invalid, NotFound, Refused, Conflict, Corrupt, Unavailable, MissingExtra)
    assert [k.exit_code for k in kinds] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_an_interrupt(cli, home, monkeypatch):
    def stop(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("boucle.faces.cli.project.doctor", stop)
    assert cli("doctor").code == 130


def test_a_reader_that_has_seen_enough(shop):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "boucle.faces.cli.main", "data", "list"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [
        ({}, False),
        ({"NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_colours_only_where_they_are_wanted(shop, environment, coloured):
    command = [sys.executable, "-m", "boucle.faces.cli.main", "data", "ingest", "people.csv", "--name", "people"]
    env = {"PATH": os.environ["PATH"], "BOUCLE_ACTOR": "ann", **environment}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert ("\x1b[32m" in done.stdout) == coloured
    assert "people@1" in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion_scripts_parse(cli, tmp_path, shell):
    said = cli("completion", shell)
    assert said.code == 0
    assert "promote" in said.out
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "script"
    script.write_text(said.out)
    subprocess.run([shell, "-n", str(script)], check=True)


def test_help_loads_no_heavy_library():
    code = """if True:
        import sys, io, contextlib
        from boucle.faces.cli.main import main
        with contextlib.redirect_stdout(io.StringIO()):
            main([]), main(["--version"])
            try: main(["run", "--help"])
            except SystemExit: pass
        heavy = {"numpy", "pandas", "pyarrow", "sklearn", "scipy", "rich", "polars", "sqlite3"}
        print(sorted(heavy & set(sys.modules)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_command_names_a_function_that_exists():
    for name, (place, what) in COMMANDS.items():
        assert what[0].islower()
        assert hasattr(__import__(f"boucle.faces.cli.{place}", fromlist=["x"]), f"add_{name}")


def test_a_project_elsewhere(cli, shop, tmp_path, monkeypatch):
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    assert json.loads(cli("data", "list", "--json", "-C", str(shop)).out)[0]["dataset"] == "people@1"
    assert cli("data", "list", "-C", "/nowhere/at/all").code == 3


def test_outside_of_a_project(cli, home):
    for command in (("models",), ("data", "list"), ("run",), ("journal",), ("fsck",)):
        said = cli(*command)
        assert (said.code, "boucle init" in said.err) == (3, True), command
