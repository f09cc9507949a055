"""CSV and its relatives, as they are and as they should not be."""

import bz2
import csv
import datetime as dt
import gzip
import io
import lzma

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound
from boucle.plugins.sources import csv as module
from boucle.plugins.sources.csv import CsvSource
from boucle.plugins.sources.csv import text as csv_text
from boucle.testing.source import SourceContract


class TestContract(SourceContract):
    source = CsvSource

    def write(self, table, folder):
        path = folder / "sample.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(table.column_names)
            writer.writerows(["" if v is None else v for v in row.values()] for row in table.to_pylist())
        return path


@pytest.fixture
def read(tmp_path):
    class Reading:
        def __init__(self, content, name, options):
            path = tmp_path / name
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            self.reading = CsvSource().read(str(path), options)
            self.frame, self.found = self.reading.frame, self.reading.found
            self.rows = self.frame.table().to_pylist()
            self.bad = [(b.number, b.why) for b in self.reading.bad]
            self.texts = [b.text for b in self.reading.bad]
            self.types = {c.name: c.type for c in self.frame.schema.columns}
            assert self.frame.rows == len(self.rows)

    return lambda content, name="x.csv", **options: Reading(content, name, options)


# --- dialect


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_found(read, delimiter):
    got = read(
        f"a{delimiter}b\n1{delimiter}x, y; z\n2{delimiter}w\n".replace(", y", " y")
        if delimiter == ","
        else f"a{delimiter}b\n1{delimiter}x, y z\n2{delimiter}w\n"
    )
    assert got.found["delimiter"] == delimiter
    assert got.types == {"a": "int64", "b": "string"}


def test_one_column(read):
    assert read("a\n1\n2\n").rows == [{"a": 1}, {"a": 2}]
    assert read("text\nhello, you\nbye\n").rows == [{"text": "hello, you"}, {"text": "bye"}]


def test_without_header(read):
    got = read("1,2.5,x\n2,3.5,y\n")
    assert got.found["header"] is False
    assert got.rows[0] == {"column_1": 1, "column_2": 2.5, "column_3": "x"}
    assert read("1,x\n2,y\n", names=["n", "w"]).rows == [{"n": 1, "w": "x"}, {"n": 2, "w": "y"}]
    assert read("a,b\nc,d\n", header=False).rows[0] == {"column_1": "a", "column_2": "b"}


def test_years_are_names(read):
    assert read("country,2019,2020\nfr,1.5,2\nde,3,4\n").frame.columns == ("country", "2019", "2020")


def test_unnamed_columns_get_a_name(read):
    got = read(",a\n0,x\n1,y\n")
    assert got.frame.columns == ("column_1", "a")
    assert got.found["generated_names"] == ["column_1"]


def test_names_that_occur_twice(read):
    with pytest.raises(Invalid, match=r"occur twice: 'a'"):
        read("a,b,a\n1,2,3\n")


def test_quotes(read):
    got = read('a,b\n"x, ""y""","line one\nline two"\nz,"w"\n')
    assert got.rows == [{"a": 'x, "y"', "b": "line one\nline two"}, {"a": "z", "b": "w"}]


def test_quotes_within_fields_are_letters(read):
    got = read('a,b\n5" pipe,it"s\nx,"y"\n')
    assert got.rows == [{"a": '5" pipe', "b": 'it"s'}, {"a": "x", "b": "y"}]


def test_no_quoting(read):
    assert read('a\tb\n"x\t1\ny"\t2\n', "x.tsv", quote="").rows == [{"a": '"x', "b": 1}, {"a": 'y"', "b": 2}]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "end"])
def test_line_endings(read, newline, last):
    got = read(newline.join(["a,b", "1,x", "2,y"]) + (newline if last else ""))
    assert got.rows == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


# --- encoding and compression


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(read, encoding):
    got = read("name,ort\nJosé,Köln\nZoë,Besançon\n".encode(encoding))
    assert got.rows == [{"name": "José", "ort": "Köln"}, {"name": "Zoë", "ort": "Besançon"}]
    assert got.found["encoding"] == encoding.removesuffix("-sig")


def test_latin_1_where_windows_has_no_letter(read):
    got = read("a,b\né\x81,1\nà,2\nè,3\n".encode("latin-1"))
    assert got.found["encoding"] == "latin-1"
    assert got.rows[0]["a"] == "é\x81"


def test_header_in_windows_1252(read):
    assert read("prénom,âge\nAndré,3\n".encode("cp1252")).frame.columns == ("prénom", "âge")


def test_broken_utf8_is_set_aside(read):
    got = read("a,b\nü,1\n".encode() + b"x\xff\xfe,2\n" + "ö,3\n".encode())
    assert [r["b"] for r in got.rows] == [1, 3]
    assert got.bad == [(3, "broken UTF-8: byte 0xff")]
    assert read(b"a,b\nx,1\n\xff\xfe,2\ny,3\n").bad[0][0] == 3


@pytest.mark.parametrize(
    ("ending", "pack"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda b: pa.compress(b, "zstd", asbytes=True)),
    ],
)
def test_compressed(read, ending, pack):
    got = read(pack(b"a,b\n1,x\n2,y\n"), "x.csv" + ending)
    assert got.rows == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_cut_off_compression(read, pack):
    rows = "".join(f"{i},{i * i % 9973}\n" for i in range(20_000))
    with pytest.raises(Invalid, match="cut off or damaged"):
        read(pack(b"a,b\n" + rows.encode())[:-30], "x.csv.gz")


# --- what a file may not be


def test_header_only_has_no_rows(read):
    got = read("a,b\n")
    assert (got.rows, got.frame.columns) == ([], ("a", "b"))


@pytest.mark.parametrize("content", [b"\n\n", b" \n", b"\xef\xbb\xbf"])
def test_nothing_but_space(read, content):
    with pytest.raises(Invalid, match="white space"):
        read(content)


def test_other_formats_are_named(read):
    with pytest.raises(Invalid, match="a Parquet file"):
        read(b"PAR1" + bytes(40))


def test_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "sales.csv").write_text("a\n1\n")
    with pytest.raises(NotFound, match=r"sales\.csv"):
        CsvSource().read(str(tmp_path / "sale.csv"), {})


def test_bad_options(read):
    for options, message in [
        ({"delimiter": "::"}, "one ASCII"),
        ({"encoding": "klingon"}, "klingon"),
        ({"names": ["a"]}, "1 names"),
        ({"types": {"z": "int64"}}, "'z'"),
        ({"types": {"a": "list<int64>"}}, "cannot be read"),
    ]:
        with pytest.raises((Invalid, NotFound), match=message):
            read("a,b\n1,2\n", **options)


def test_characters_that_only_look_like_line_ends(read):
    assert read("a\u2028b,c\x85d\n1\x0bx,2\u2029y\n").rows == [{"a\u2028b": "1\x0bx", "c\x85d": "2\u2029y"}]


def test_a_line_without_end(read, monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 1 << 20)
    monkeypatch.setattr(module, "_BLOCK", 1 << 16)
    with pytest.raises(Invalid, match="line 3 has more than"):
        read(b"a,b\n1,2\n" + b"x" * (1 << 23))


def test_too_many_bad_lines(read, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BAD", 10)
    monkeypatch.setattr(module, "_BLOCK", 100)
    with pytest.raises(Invalid, match="lines cannot be read"):
        read("a,b\n1,2\n" + "x\n" * 1000)


def test_a_small_file_that_unpacks_to_a_large_one(read):
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 100_000)
    with pytest.raises(Invalid, match="unpacks to more than 100000 bytes"):
        read(packed, "x.csv.gz", largest=100_000)
    assert len(read(packed, "x.csv.gz", largest="1000000").rows) == 100_000


def test_an_xz_file_that_asks_for_too_much_memory(read):
    packed = lzma.compress(b"a,b\n1,2\n", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}])
    with pytest.raises(Invalid, match="cut off or damaged"):
        read(packed, "x.csv.xz")


# --- lines set aside


def test_lines_of_the_wrong_length(read):
    got = read("a,b\n1,2\n3\n\n4,5,6\n7,8\n")
    assert got.rows == [{"a": 1, "b": 2}, {"a": 7, "b": 8}]
    assert got.bad == [(3, "1 field where the header has 2"), (5, "3 fields where the header has 2")]
    assert got.texts == ["3", "4,5,6"]


def test_line_numbers_count_lines_within_quotes(read):
    assert read('a,b\n"x\ny",1\nz\n"p\n\nq",2\n1,2,3\n').bad == [
        (4, "1 field where the header has 2"),
        (8, "3 fields where the header has 2"),
    ]


def test_nul_bytes(read):
    got = read(b"a,b\n1,x\n2,\x00\n3,y\n")
    assert [r["a"] for r in got.rows] == [1, 3]
    assert got.bad == [(3, "a NUL byte")]
    assert got.texts == ["2,\\x00"]


def test_a_stray_quote_costs_one_line(read):
    got = read('a,b\n1,x\n2,"oops\n3,y\n4,"fine"\n5,z\n')
    assert [r["a"] for r in got.rows] == [1, 3, 4, 5]
    assert [n for n, _ in got.bad] == [3]


def test_a_carriage_return_within_a_line(read):
    got = read(b"a,b\n1,x\n2,p\rq\n3,y\n")
    assert got.bad == [(3, "a carriage return within the line")]


def test_all_lines_wrong(read):
    with pytest.raises(Invalid, match="none of its 2 lines"):
        read("a,b\n1\n2\n")


def test_reading_again_starts_the_bad_lines_again(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n3\n")
    reading = CsvSource().read(str(path), {})
    for _ in range(2):
        reading.frame.table()
        assert len(reading.bad) == 1


# --- types


@pytest.mark.parametrize(("values", "kind", "first"), [
    ("1 2 -3", "int64", 1), ("1 2.5 3", "float64", 1.0), ("1e3 -.5 2", "float64", 1000.0),
    ("true False TRUE", "bool", True), ("2026-01-31 1999-12-01", "date", dt.date(2026, 1, 31)),
    ("2026-01-31T10:00:00 2026-02-01", "timestamp", dt.datetime(2026, 1, 31, 10)),
    ("2026-01-31T10:00:00+02:00 2026-01-31T10:00:00Z", "timestamp", dt.datetime(2026, 1, 31, 8)),
    ("00123 4", "string", "00123"), ("+33 1", "string", "+33"), ("0x10 1", "string", "0x10"), ("-007 1.5", "string",
    "-007"),
    ("12345678901234567891 1", "string", "12345678901234567891"), ("9007199254740993 1.5", "string",
    "9007199254740993"),
    ("1.5 9007199254740993", "string", "1.5"), ("1 x", "string", "1"), ("true 1", "string", "true"),
    ("2026-02-30 2026-01-01", "string", "2026-02-30"), ("2026-01-31T10:00:00.123456789", "string",
    "2026-01-31T10:00:00.123456789"),
    ("2026-01-31T10:00:00Z 2026-01-31T10:00:00", "string", "2026-01-31T10:00:00Z"),
])  # fmt: skip
def test_types(read, values, kind, first):
    got = read("v,w\n" + "".join(f"{v},x\n" for v in values.split()))
    assert got.types["v"] == kind
    assert got.rows[0]["v"] == first


@pytest.mark.parametrize(("late", "kind"), [("1.5", "float64"), ("x", "string"), ("00", "string"), ("NA", "int64")])
def test_a_late_value_widens_the_whole_column(read, monkeypatch, late, kind):
    monkeypatch.setattr(module, "_BLOCK", 1000)
    rows = 20_000
    got = read("v,w\n" + "".join(f"{i},y\n" for i in range(rows)) + f"{late},y\n")
    assert got.types["v"] == kind
    wanted = {"float64": 7.0, "string": "7", "int64": 7}[kind]
    assert (len(got.rows), got.rows[7]["v"]) == (rows + 1, wanted)
    assert got.rows[-1]["v"] == {"1.5": 1.5, "x": "x", "00": "00", "NA": None}[late]


def test_numbers_with_space_around_them(read):
    assert read("a,b\n 1, x\n2 ,y\n").rows == [{"a": 1, "b": " x"}, {"a": 2, "b": "y"}]


def test_given_types(read):
    got = read("a,b,c\n1,2,2026-01-01\n3,4,2026-01-02\n", types={"a": "string", "b": "float32", "c": "timestamp"})
    assert got.types == {"a": "string", "b": "float32", "c": "timestamp"}
    assert got.rows[0] == {"a": "1", "b": 2.0, "c": dt.datetime(2026, 1, 1)}
    with pytest.raises(Invalid, match=r"column 'a' holds 'x'"):
        read("a,b\n1,2\nx,3\n", types={"a": "int64"})


# --- missing values


def test_words_for_missing_among_numbers(read):
    got = read("a,b\n1,2026-01-01\nNA,null\n?,N/A\nnan,\nNone,2026-01-02\n")
    assert [r["a"] for r in got.rows] == [1, None, None, None, None]
    assert [r["b"] is None for r in got.rows] == [False, True, True, True, False]
    assert got.found["nulls"]["NA"] == ["a"]


def test_namibia_stays(read):
    got = read("code,n\nNA,1\nDE,2\n")
    assert got.rows[0]["code"] == "NA"
    assert got.found["kept"] == {"NA": ["code"]}


def test_na_is_missing_in_text_where_the_file_uses_it_for_numbers(read):
    got = read("code,n\nNA,1\nDE,NA\n")
    assert got.rows == [{"code": None, "n": 1}, {"code": "DE", "n": None}]


def test_question_mark(read):
    assert read("job,n\n?,1\nclerk,2\n").rows[0]["job"] is None
    prose = "a long remark that goes on and on until it is clear that this is prose, not a category"
    assert read(f'text,n\n?,1\n"{prose}",2\n').rows[0]["text"] == "?"


def test_own_words_for_missing(read):
    got = read("a,b\n-999,x\n1,NA\n", nulls=["-999"])
    assert got.rows == [{"a": None, "b": "x"}, {"a": 1, "b": "NA"}]


def test_a_column_without_values(read):
    got = read("a,b\n,1\n,2\n")
    assert got.types["a"] == "null"
    assert got.frame.schema["a"].nullable
    assert not got.frame.schema["b"].nullable
    assert got.rows == [{"a": None, "b": 1}, {"a": None, "b": 2}]


def test_nan_makes_a_column_nullable(read):
    assert read("a,b\n1.5,x\nnan,y\n").frame.schema["a"].nullable


# --- size


def test_ten_thousand_columns(read):
    names = [f"c{i}" for i in range(10_000)]
    row = ",".join(str(i) for i in range(10_000))
    got = read(",".join(names) + "\n" + f"{row}\n" * 3)
    assert len(got.frame.schema) == 10_000
    assert got.rows[2]["c9999"] == 9999


def test_blocks_do_not_show(read, monkeypatch):
    body = "a,b\n" + "".join(f'{i},"x{i}\n""{"y" * (i % 50)}"""\n' if i % 3 else f"{i},z\n" for i in range(3000))
    body += "1,2,3\n"
    whole = read(body)
    monkeypatch.setattr(module, "_BLOCK", 100)
    monkeypatch.setattr(module.files, "CHUNK", 64)
    monkeypatch.setattr(module.files.chunks, "__defaults__", (64,))
    cut = read(body)
    assert cut.rows == whole.rows
    assert cut.bad == whole.bad
    assert len(whole.rows) == 3000


# --- the law: what the standard library reads, we read


FIELD = st.text(st.sampled_from('ab ,;"\n\r'), max_size=6)


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=8), block=st.sampled_from([1, 7, 1 << 20]))
def test_what_is_written_properly_is_read(tmp_path_factory, rows, block):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    sink = io.StringIO()
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("first", "second"), *rows])
    path.write_bytes(sink.getvalue().encode())
    before = module._BLOCK
    module._BLOCK = block
    try:
        reading = CsvSource().read(str(path), {"types": {"first": "string", "second": "string"}})
        got = [(r["first"] or "", r["second"] or "") for r in reading.frame.table().to_pylist()]
    finally:
        module._BLOCK = before
    assert got == rows
    assert not reading.bad


@settings(max_examples=300, deadline=None)
@given(body=st.text(st.sampled_from('ab,"\n\r\x00é1'), max_size=60).map(str.encode) | st.binary(max_size=60))
def test_no_line_is_lost_unsaid(tmp_path_factory, body):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    path.write_bytes(b"first,second\nx,y\n" + body)
    try:
        reading = CsvSource().read(str(path), {"delimiter": ","})
    except Invalid:
        return
    table = reading.frame.table()
    assert table.num_rows >= 1
    assert all(b.number >= 3 and b.why for b in reading.bad)
    if b'"' not in body and b"\r" not in body:
        lines = [line for line in body.split(b"\n") if line]
        assert table.num_rows - 1 + len(reading.bad) == len(lines)


@pytest.mark.parametrize("line", [b'b","c\n', b'"b\n', b'x,"b""\n', b'"b""x"\n'])
def test_wild_quotes_are_walked_once(monkeypatch, line):
    """The fields that are looked at grow with the lines, not with their square."""
    made, looked = csv_text._field_pattern, 0

    class Counting:
        def __init__(self, *args):
            self.pattern = made(*args)

        def match(self, data, at):
            nonlocal looked
            looked += 1
            return self.pattern.match(data, at)

    monkeypatch.setattr(csv_text, "_field_pattern", Counting)
    text = csv_text.Text("utf-8", True, ",", '"', "\n", True, ("a", "b"), (), 0, 1, 0)
    good, used, bad = csv_text.sift(line * 1000, text, 1, final=True)
    assert used == 1000 * len(line)
    assert len(bad) + good.count(b"\n") >= 500
    assert looked <= 5000
