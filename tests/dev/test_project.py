"""New projects: written whole or not at all."""

from __future__ import annotations

import ast
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boucle.core.errors import Conflict, Invalid, NotFound, Unavailable
from boucle.dev.project import FILES, new


def test_every_file_is_there_and_parses(tmp_path):
    made = new("churn", tmp_path / "churn", dataset="people", target="left", source="people.csv")
    assert (
        {p.relative_to(made.folder).as_posix() for p in made.folder.rglob("*") if p.is_file()}
        == set(FILES)
        == set(made.files)
    )
    assert [p.name for p in tmp_path.iterdir()] == ["churn"]
    for path in made.folder.rglob("*.py"):
        ast.parse(path.read_text())
    assert "people.csv" in (made.folder / "README.md").read_text()
    assert "$" not in (made.folder / "pipeline.py").read_text()


@given(
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
)
def test_any_name_and_target_make_files_that_parse(tmp_path_factory, name, target):
    made = new(name, tmp_path_factory.mktemp("p") / "x", dataset="people", target=target)
    table = tomllib.loads((made.folder / "boucle.toml").read_text(encoding="utf-8"))
    ((found, entry),) = table["pipelines"].items()
    assert (found, entry["target"]) == (name, target)
    tree = ast.parse((made.folder / "pipeline.py").read_text(encoding="utf-8"))
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert entry["call"] == f"pipeline:{functions[-1]}"
    assert len(set(functions)) == 2


def test_an_empty_folder_will_do_and_a_full_one_will_not(tmp_path):
    (tmp_path / "empty").mkdir()
    new("a", tmp_path / "empty", dataset="d", target="t")
    with pytest.raises(Conflict, match="holds something"):
        new("a", tmp_path / "empty", dataset="d", target="t")
    (tmp_path / "file").touch()
    with pytest.raises(Conflict, match="holds something"):
        new("a", tmp_path / "file", dataset="d", target="t")


@pytest.mark.parametrize(
    "options",
    [{"name": "a b"}, {"name": ""}, {"dataset": "a/b"}, {"target": ""}],
)
def test_bad_names_write_nothing(tmp_path, options):
    with pytest.raises(Invalid):
        new(**{"name": "a", "folder": tmp_path / "x", "dataset": "d", "target": "t", **options})
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises((Unavailable, NotFound), match="cannot write"):
        new("a", tmp_path / "file" / "x", dataset="d", target="t")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
