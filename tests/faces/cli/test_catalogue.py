"""The commands that compare, find and describe datasets."""

from __future__ import annotations

import html.parser
import json

import pytest

import boucle.workspace
from boucle.faces.cli import out, words
from boucle.faces.cli.data import page
from boucle.ledger import datasets, trees

ORDERS = "id,city,amount,note\n1,Lyon,19.5,\n2,,5,a\n3,Nice,7,b\n"


@pytest.fixture
def orders(home, cli):
    """Two versions of a dataset."""
    cli("init")
    (home / "orders.csv").write_text(ORDERS)
    assert cli("data", "ingest", "orders.csv", "--name", "orders", "--tag", "country=FR", "--owner", "sales").code == 0
    (home / "orders.csv").write_text(
        ORDERS.replace("2,,5", "2,Metz,6").replace("3,Nice,7,b\n", "4,Nice,8,<b>\n5,Lyon,9,c\n")
    )
    assert cli("data", "ingest", "orders.csv", "--name", "orders").code == 0
    return home


@pytest.fixture
def pictures(home, cli):
    """Two versions of a folder of files."""
    cli("init")
    with boucle.workspace.open(home) as ws:
        for files in ({"a.jpg": b"x" * 2000, "b<i>.txt": b"1"}, {"c.jpg": b"x" * 2000, "b<i>.txt": b"22", "d": b""}):
            datasets.commit_files(ws, "pictures", trees.add(ws.blobs, files.items()))
    return home


class Read(html.parser.HTMLParser):
    """The text of a page; a tag that is not ours shows as one that should not be there."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not [v for n, v in attrs if n in ("src", "href")], "the page needs nothing else"

    def handle_data(self, data):
        self.text += data


def read(path):
    found = Read()
    found.feed(path.read_text(encoding="utf-8"))
    assert not found.tags & {"i", "script", "link", "img"}
    return found


def test_diff_says_what_differs_and_so_does_its_code(cli, orders):
    said = cli("data", "diff", "orders@1", "orders@2")
    assert said.code == 1
    for part in ("+2 -1 ~1 rows", "key id (found)", "Metz", "null", "changed cells", "Lyon"):
        assert part in said.out
    found = cli("data", "diff", "orders@1", "orders@2", "--json")
    assert found.code == 1
    assert found.json["cells"] == {"city": 1, "amount": 1}
    assert found.json["changed_rows"] == [
        {"numbers": [1, 1], "key": {"id": 2}, "cells": {"city": [None, "Metz"], "amount": [5.0, 6.0]}}
    ]
    same = cli("data", "diff", "orders@2", "orders")
    assert (same.code, "no difference" in same.out) == (0, True)
    assert cli("data", "diff", "orders@2", "orders@2", "--json").json["same"] is True


def test_diff_with_a_key_and_few_examples(cli, orders):
    found = cli("data", "diff", "orders@1", "orders@2", "--key", "id,city", "--json").json
    assert (found["key"], found["key_found"], found["changed"]) == (["id", "city"], False, 0)
    few = cli("data", "diff", "orders@1", "orders@2", "--rows", "0")
    assert "--rows N shows more" in few.out
    assert "Metz" not in few.out.split("statistics")[0]
    by_city = cli("data", "diff", "orders@1", "orders@2", "--key", "city")
    assert "key city" in by_city.out


def test_diff_as_a_page(cli, orders):
    assert cli("data", "diff", "orders@1", "orders@2", "--html", "d.html").code == 1
    seen = read(orders / "d.html")
    assert "orders@1 → orders@2" in seen.text
    assert "<b>" in seen.text


def test_diff_of_folders(cli, pictures):
    said = cli("data", "diff", "pictures@1", "pictures@2", "--html", "d.html")
    assert said.code == 1
    assert "1 added, 1 changed, 1 renamed" in said.out
    assert "a.jpg → c.jpg" in said.out
    assert "b<i>.txt" in read(pictures / "d.html").text
    found = cli("data", "diff", "pictures@1", "pictures@2", "--json").json
    assert (found["type"], found["renamed_files"]) == ("files", [["a.jpg", "c.jpg"]])
    assert cli("data", "diff", "pictures@1", "pictures@1").code == 0


def test_wide_rows_are_cut(cli, home):
    cli("init")
    for i in (1, 2):
        names = [f"column_{n}" for n in range(30)] + ["id"]
        rows = "\n".join(",".join([str(n)] * 31) for n in range(i * 20))
        (home / "wide.csv").write_text(",".join(names) + "\n" + rows + "\n")
        cli("data", "ingest", "wide.csv", "--name", "wide")
    said = cli("data", "diff", "wide@1", "wide@2")
    assert "22 more" in said.out
    assert "column_20" not in said.out.split("added")[1].split("statistics")[0]


def test_search(cli, orders):
    found = cli("data", "search", "lyon")
    assert found.code == 0
    assert "orders@2" in found.out
    assert "value city = Lyon" in found.out
    assert [d["dataset"] for d in cli("data", "search", "orders", "--all", "--json").json] == ["orders@2", "orders@1"]
    assert cli("data", "search", "--tag", "country=FR", "--json").json == []
    assert [d["dataset"] for d in cli("data", "search", "--tag", "country", "--all", "--json").json] == ["orders@1"]
    assert cli("data", "search", "--where", "nulls(city) < 1%", "--column", "id", "--owner", "sales").code == 0
    none = cli("data", "search", "nothing")
    assert (none.code, "nothing fits" in none.out) == (1, True)
    assert "and 1 more" in cli("data", "search", "--all", "--limit", "1").out
    matched = cli("data", "search", "lyon", "--json").json[0]["matched"]
    assert matched == [{"in": "value", "what": "city = Lyon"}]


def test_tag_and_describe(cli, orders):
    assert cli("data", "tag", "orders@1", "n=1", "--remove", "country", "--json").json["tags"] == {"n": 1}
    said = cli("data", "describe", "orders@1", "--description", "All", "--owner", "", "--licence", "MIT", "--json").json
    assert said == {"dataset": "orders@1", "description": "All", "owner": "", "licence": "MIT", "tags": {"n": 1}}
    assert "licence" in cli("data", "describe", "orders@1", "--licence", "BSD").out
    events = cli("journal", "--json").json
    assert [e["data"]["changed"] for e in events if e["type"] == "dataset.described"] == [
        {"tags.country": ["FR", None], "tags.n": [None, 1]},
        {"description": [None, "All"], "owner": ["sales", None], "licence": [None, "MIT"]},
        {"licence": ["MIT", "BSD"]},
    ]


def test_log_tells_what_changed(cli, orders):
    rows = cli("data", "log", "orders", "--json").json
    assert [r["change"] for r in rows] == [{"rows": 1, "schema": ["city: may no longer be null"]}, None]
    assert "+1 row" in cli("data", "log", "orders").out
    compared = cli("data", "log", "orders", "--diff")
    assert "+2 -1 ~1 (cells: city 1, amount 1)" in compared.out
    found = [r["diff"] and r["diff"]["changed"] for r in cli("data", "log", "orders", "--diff", "--json").json]
    assert found == [1, None]


def test_log_of_folders(cli, pictures):
    assert "+1 file" in cli("data", "log", "pictures").out
    assert "+1 ~1 renamed 1" in cli("data", "log", "pictures", "--diff").out


def test_show_on_a_page_and_of_one_column(cli, orders):
    said = cli("data", "show", "orders", "--html", "s.html", "--rows", "2")
    assert said.code == 0
    seen = read(orders / "s.html")
    assert {"svg", "rect", "table"} <= seen.tags
    assert "⚠" not in seen.text
    column = cli("data", "show", "orders", "--column", "city", "--column", "amount").out
    assert "shortest" in column
    assert "50%=" in column
    assert cli("data", "show", "orders", "--column", "cty").code == 3


def test_show_warns(cli, home):
    cli("init")
    (home / "a.csv").write_text("k,v\n" + "same,1\n" * 30 + "same,\n" * 40)
    cli("data", "ingest", "a.csv", "--name", "a")
    said = cli("data", "show", "a", "--html", "s.html")
    assert "! k: always the same value" in said.out
    assert "! v: 57% missing" in said.out
    assert "⚠ 57% missing" in read(home / "s.html").text
    remarks = cli("data", "show", "a", "--json").json["remarks"]
    assert {"column": "k", "what": "always the same value"} in remarks
    assert "! 57% missing" in cli("data", "show", "a", "--column", "v").out


def test_show_fits_a_narrow_terminal(cli, orders, monkeypatch):
    monkeypatch.setattr(type(out.console()), "width", property(lambda self: 80))
    said = cli("data", "show", "orders").out
    assert "amount  float64, 4 distinct" in said
    assert max(map(len, said.splitlines())) <= 80


def test_show_of_a_folder(cli, pictures):
    said = cli("data", "show", "pictures", "--html", "s.html")
    assert said.code == 0
    for part in (".jpg", "2 kB", "c.jpg", "endings"[:3]):
        assert part in said.out
    assert "c.jpg" in read(pictures / "s.html").text
    assert cli("data", "show", "pictures", "--json").json["files"]["files"] == 3
    assert cli("data", "show", "pictures", "--column", "a").code == 2


def test_an_empty_folder(cli, home):
    cli("init")
    with boucle.workspace.open(home) as ws:
        datasets.commit_files(ws, "none", trees.add(ws.blobs, []))
    assert cli("data", "show", "none", "--html", "s.html").code == 0
    assert "no files" in cli("data", "show", "none").out


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1 kB"), (123_456, "123 kB"), (5e9, "5 GB"), (2e15, "2e+03 TB")],
)
def test_sizes(count, text):
    assert words.size(count) == text


ERRORS = [
    (("diff", "orders@1", "orders@9"), 3), (("diff", "orders@1", "orders@2", "--key", "nothing"), 2),
    (("diff", "orders@1", "orders@2", "--rows", "-1"), 2), (("diff", "orders@1", "orders@2", "--html", "d.pdf"), 2),
    (("diff", "orders@1", "orders@2", "--html", "no/d.html"), 7), (("search", "--where", "rows"), 2),
    (("tag", "orders@1"), 2), (("tag", "orders@1", "a"), 2), (("tag", "orders@1", "--remove", "a"), 3),
    (("tag", "orders@1", "bad_lines=1"), 4), (("describe", "orders@1"), 2), (("describe", "nothing", "--owner", "me"), 3),
    (("log", "nothing", "--diff"), 3), (("show", "orders", "--html", "a.txt"), 2),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code"), ERRORS)
def test_errors(cli, orders, arguments, code):
    said = cli("data", *arguments, "--json")
    assert said.code == code, said.err
    assert json.loads(said.err)["error"]["what"]


def test_the_drawing_of_a_column_without_values():
    from boucle.core.frames import Frame
    from boucle.measure.quality import profile

    seen = profile(Frame.of({"x": [None, None], "y": [1.0, 2.0]}))
    assert page.drawing(seen["x"]) == ""
    assert "<svg" in page.drawing(seen["y"])
