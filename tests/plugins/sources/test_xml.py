"""XML documents."""

import gzip
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boucle.core.errors import Invalid, NotFound
from boucle.plugins.sources import xml as module
from boucle.plugins.sources.xml import XmlSource
from boucle.testing.source import SourceContract


class TestContract(SourceContract):
    source = XmlSource

    def write(self, table, folder):
        path = folder / "sample.xml"
        rows = "".join(
            "<row>" + "".join(f"<{k}>{escape(str(v))}</{k}>" for k, v in row.items() if v is not None) + "</row>"
            for row in table.to_pylist()
        )
        path.write_text(f"<?xml version='1.0' encoding='utf-8'?><rows>{rows}</rows>", encoding="utf-8")
        return path


@pytest.fixture
def read(tmp_path):
    def read(content, name="x.xml", **options):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        reading = XmlSource().read(str(path), options)
        return reading, reading.frame.table().to_pylist()

    return read


VOC = """<annotation><folder>JPEGImages</folder><filename>cell_7.jpg</filename>
<size><width>640</width><height>480</height></size>
<object><name>RBC</name><bndbox><xmin>1</xmin><ymin>2</ymin></bndbox></object>
<object><name>WBC</name><bndbox><xmin>3</xmin><ymin>4</ymin></bndbox></object></annotation>"""


def test_annotations(read):
    reading, rows = read(VOC)
    assert reading.found["record"] == "annotation/object"
    assert rows[1] == {"name": "WBC", "bndbox": {"xmin": 3, "ymin": 4}}
    _, rows = read(VOC, flatten=True, context="filename,width")
    assert rows[0] == {"filename": "cell_7.jpg", "width": 640, "name": "RBC", "bndbox.xmin": 1, "bndbox.ymin": 2}


def test_a_document_with_one_record_must_be_told(read):
    one = "<a><size><w>1</w></size><object><name>x</name></object></a>"
    with pytest.raises(Invalid, match="no element is repeated"):
        read(one)
    assert read(one, record="object")[1] == read(one, record="a/object")[1] == [{"name": "x"}]
    with pytest.raises(NotFound, match="'objekt'"):
        read(one, record="objekt")


def test_the_records_are_those_that_hold_most(read):
    feed = (
        "<feed><link rel='a'/><link rel='b'/>"
        + "<entry><t>x</t><c a='1'/><c a='2'/></entry>" * 2
        + "<n>1</n><n>2</n></feed>"
    )
    assert read(feed)[0].found["record"] == "feed/entry"


def test_attributes_text_and_lists(read):
    reading, rows = read(
        "<l xmlns:q='u'><r id='007' q:k='1'><tag>a</tag><tag>b</tag><p>x</p></r>"
        "<r id='008'><tag>c</tag><p lang='en'>y<b>z</b></p></r><r id='009'/></l>"
    )
    assert {c.name: c.type for c in reading.frame.schema.columns} == {
        "id": "string", "k": "int64", "tag": "list<string>", "p": "struct<text: string, lang: string, b: string>",
    }  # fmt: skip
    assert rows[0] == {"id": "007", "k": 1, "tag": ["a", "b"], "p": {"text": "x", "lang": None, "b": None}}
    assert rows[1]["p"] == {"text": "y", "lang": "en", "b": "z"}
    assert rows[2] == {"id": "009", "k": None, "tag": None, "p": None}


def test_types_are_guessed_over_all_records(read):
    many = "".join(f"<r><n>{i}</n><m>{i}</m></r>" for i in range(20_000)) + "<r><n>1.5</n><m>x</m></r>"
    reading, rows = read(f"<l>{many}</l>")
    assert [c.type for c in reading.frame.schema.columns] == ["float64", "string"]
    assert (len(rows), rows[7], rows[-1]) == (20_001, {"n": 7.0, "m": "7"}, {"n": 1.5, "m": "x"})
    assert read("<l><r>1</r><r>NA</r></l>")[1] == [{"text": 1}, {"text": None}]
    assert read("<l><r><n>1</n></r><r><n>2</n></r></l>", types={"n": "string"})[1][0] == {"n": "1"}


def test_encodings_and_compression(read):
    text = "<l><r>é</r><r>ü</r></l>"
    assert read(b"<?xml version='1.0' encoding='iso-8859-1'?>" + text.encode("latin-1"))[1][0] == {"text": "é"}
    assert read(text.encode("utf-16"))[1][1] == {"text": "ü"}
    assert read(gzip.compress(text.encode()), "x.xml.gz")[1][1] == {"text": "ü"}


LAUGHS = (
    "<!DOCTYPE l [<!ENTITY a 'ha'>"
    + "".join(f"<!ENTITY {chr(98 + i)} '{f'&{chr(97 + i)};' * 10}'>" for i in range(9))
    + "]><l><r>&j;</r><r/></l>"
)


@pytest.mark.parametrize(("content", "message"), [
    (LAUGHS, "declares entities"),
    ("<!DOCTYPE l [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><l><r>&a;</r><r/></l>", "declares entities"),
    ("<!DOCTYPE l [<!ENTITY % a SYSTEM 'http://localhost/x'>%a;]><l><r/><r/></l>", "declares entities"),
    ("<!DOCTYPE l SYSTEM 'http://localhost/x.dtd'><l><r>&a;</r><r/></l>", "declared outside"),
    ("<l><r>&a;</r><r/></l>", "not well-formed"), ("<l><r></l>", "not well-formed"), ("<l><r/><r/></l>x", "not well-formed"),
    ("<a>" * 5000, "nested more than 200 deep"), ("plain text", "not well-formed"),
    ("<l>" + "".join(f"<r><c{i}/></r>" for i in range(10_001)) + "</l>", "kinds of elements"),
])  # fmt: skip
def test_what_a_document_may_not_be(read, content, message):
    with pytest.raises(Invalid, match=message):
        read(content)


def test_a_record_without_end(read, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 1 << 21)
    with pytest.raises(Invalid, match="more than"):
        read("<l><r>" + "x" * (1 << 22) + "</r><r/></l>")
    with pytest.raises(Invalid, match="a tag of more than"):
        read("<l><r a='" + "x" * (1 << 22))


TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"], exclude_characters="\ufffe\uffff"), max_size=8
)


@settings(deadline=None)
@given(rows=st.lists(st.fixed_dictionaries({"a": TEXT, "b": TEXT}), min_size=2, max_size=6))
def test_what_is_written_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("xml") / "x.xml"
    body = "".join(f"<r><a>{escape(r['a'])}</a><b>{escape(r['b'])}</b></r>" for r in rows)
    path.write_text(f"<l>{body}</l>", encoding="utf-8")
    got = XmlSource().read(str(path), {"types": {"a": "string", "b": "string"}}).frame.table().to_pylist()
    assert [{k: v or "" for k, v in row.items()} for row in got] == [{k: v.strip() for k, v in r.items()} for r in rows]
