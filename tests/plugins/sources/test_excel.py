"""Spreadsheets."""

import datetime as dt
import re
import struct
import zipfile

import openpyxl
import pytest

from boucle.core.errors import Invalid, NotFound
from boucle.plugins.sources.excel import ExcelSource
from boucle.testing.source import SourceContract


def save(path, **sheets):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


class TestContract(SourceContract):
    source = ExcelSource

    def write(self, table, folder):
        rows = [table.column_names, *(list(r.values()) for r in table.to_pylist())]
        return save(folder / "sample.xlsx", data=rows)


@pytest.fixture
def read(tmp_path):
    def read(options=None, /, **sheets):
        reading = ExcelSource().read(str(save(tmp_path / "x.xlsx", **sheets)), options or {})
        return reading, reading.frame.table().to_pylist()

    return read


def test_types(read):
    day, moment, hour = dt.date(2026, 1, 31), dt.datetime(2026, 1, 31, 5), dt.time(3, 4)
    values = [7, 2.5, "x", day, moment, hour, dt.timedelta(hours=30), True, "007"]
    reading, rows = read(
        s=[list("abcdefghi"), values, [None] * 9, ["NA", None, None, None, day, None, None, None, "8"]]
    )
    assert [c.type for c in reading.frame.schema.columns] == [
        "int64", "float64", "string", "date", "timestamp", "time", "duration", "bool", "string",
    ]  # fmt: skip
    assert list(rows[0].values()) == values
    assert (len(rows), rows[1]["a"], rows[1]["e"]) == (2, None, dt.datetime(2026, 1, 31))


def test_columns_of_several_kinds_are_text(read):
    reading, rows = read(s=[["a", "b"], [1, 1], ["x", True], [2.5, 1.5]])
    assert reading.found["mixed"] == ["a", "b"]
    assert [r["a"] for r in rows] == ["1", "x", "2.5"]
    assert [r["b"] for r in rows] == ["1", "true", "1.5"]


def test_given_types(read):
    _, rows = read({"types": {"a": "string", "b": "int64"}}, s=[["a", "b"], [1, "5"], [2, "NA"]])
    assert rows == [{"a": "1", "b": 5}, {"a": "2", "b": None}]
    with pytest.raises(NotFound, match="'z'"):
        read({"types": {"z": "string"}}, s=[["a"], [1]])


def test_sheets(read):
    two = {"north": [["a"], [1]], "south": [["b"], [2]]}
    with pytest.raises(Invalid, match="2 sheets with data: 'north', 'south'"):
        read(**two)
    assert read({"sheet": "south"}, **two)[1] == read({"sheet": 2}, **two)[1] == [{"b": 2}]
    with pytest.raises(NotFound, match="'soth'"):
        read({"sheet": "soth"}, **two)
    assert read(empty=[], data=[["a"], [1]])[0].found["sheet"] == "data"
    with pytest.raises(Invalid, match="no sheet with data"):
        read(empty=[])


def test_header(read):
    rows = [["Report of 2026"], [], [None, "a", None], [None, 1, 2], [None, 3, 4]]
    reading, got = read({"header": 3}, s=rows)
    assert got == [{"a": 1, "column_2": 2}, {"a": 3, "column_2": 4}] or got[0]["a"] == 1
    assert reading.found["header"] == 3
    assert read({"header": False}, s=[[1, 2]])[1] == [{"column_1": 1, "column_2": 2}]
    assert read({"header": False, "names": ["x", "y"]}, s=[[1, 2]])[1] == [{"x": 1, "y": 2}]
    with pytest.raises(Invalid, match="'a'"):
        read(s=[["a", "a"], [1, 2]])
    with pytest.raises(Invalid, match="row 9"):
        read({"header": 9}, s=rows)


def test_ten_thousand_rows(read):
    _, rows = read(s=[["n", "w"], *([i, f"w{i}"] for i in range(10_000))])
    assert rows[9_999] == {"n": 9_999, "w": "w9999"}


def test_a_cell_in_the_last_corner(tmp_path):
    book = openpyxl.Workbook()
    book.active["A1"], book.active["XFD1048576"] = "a", 1
    book.save(tmp_path / "x.xlsx")
    with pytest.raises(Invalid, match="memory"):
        ExcelSource().read(str(tmp_path / "x.xlsx"), {})


def test_a_bomb(tmp_path):
    path = save(tmp_path / "x.xlsx", s=[["a"], [1]])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/more.xml", bytes(5_000_000))
    with pytest.raises(Invalid, match="unpacks to"):
        ExcelSource().read(str(path), {"largest": 1_000_000})
    assert ExcelSource().read(str(path), {}).frame.rows == 1


def test_a_bomb_that_lies(tmp_path):
    path = save(tmp_path / "x.xlsx", s=[["a"], *([i] for i in range(5000))])
    raw = bytearray(path.read_bytes())
    for found in re.finditer(b"PK\x01\x02", bytes(raw)):
        raw[found.start() + 24 : found.start() + 28] = struct.pack("<I", 100)
    path.write_bytes(raw)
    with pytest.raises(Invalid, match="not a whole spreadsheet"):
        ExcelSource().read(str(path), {}).frame.table()


def test_an_archive_that_is_no_spreadsheet(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(Invalid, match="not a whole spreadsheet"):
        ExcelSource().read(str(tmp_path / "x.xlsx"), {})
