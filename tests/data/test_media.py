"""Files that are no tables as rows: what is told agrees with the libraries that decode them; damage is told, never raised."""

import io
import struct
import sys
import wave
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boucle.core.errors import Conflict, Invalid, MissingExtra
from boucle.data import media
from boucle.data.ingest import ingest, preview
from boucle.data.media import documents, kinds, rows
from boucle.ledger import datasets, tables, trees
from boucle.workspace import init

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def ws(tmp_path):
    with init(tmp_path / "project", store="memory", actor="ann") as ws:
        yield ws


@pytest.fixture
def make(tmp_path):
    def make(files, root="data"):
        for name, content in files.items():
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(tmp_path / root)

    return make


def table(ws, name="t"):
    return datasets.load(ws, name).table().to_pylist()


def told(tmp_path, content, name="x"):
    """What is told of a file of that content."""
    path = tmp_path / name
    path.write_bytes(content)
    kind = kinds.media_type(content[: kinds.HEAD], path.suffix)
    return kind, rows.facts(path, kind, 20_000)


def picture(format, size=(7, 5), mode="RGB", **more):
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    PIL.fromarray(noise).convert(mode).save(out, format, **more)
    return out.getvalue()


def sound(frames=800, rate=8000, channels=2, width=2):
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.random.default_rng(0).bytes(frames * channels * width))
    return out.getvalue()


def pdf(text="Hello there"):
    """A document of one page."""
    stream = b"BT /F1 12 Tf 20 50 Td (%s) Tj ET" % text.encode()
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 100] /Contents 4 0 R "
        b"/Resources << /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >> >>",
        b"<< /Length %d >> stream\n%s\nendstream" % (len(stream), stream), b"<< /Title (A title) >>",
    ]  # fmt: skip
    out, places = bytearray(b"%PDF-1.4\n"), []
    for i, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (i, content)
    start = len(out)
    out += b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % p for p in places)
    return bytes(out + b"trailer << /Size 6 /Root 1 0 R /Info 5 0 R >>\nstartxref\n%d\n%%%%EOF\n" % start)


def video(frames=12, size=(64, 48), rate=8, format="mp4"):
    av = pytest.importorskip("av")
    out = io.BytesIO()
    with av.open(out, "w", format=format) as file:
        stream = file.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for i in range(frames):
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.full((*size[::-1], 3), i * 20, np.uint8))):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    return out.getvalue()


# --- what is told agrees with the libraries ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "mode", "more"),
    [("PNG", "RGB", {}), ("PNG", "L", {}), ("PNG", "P", {}), ("PNG", "RGBA", {}), ("PNG", "LA", {}), ("JPEG", "RGB", {}),
     ("JPEG", "L", {}), ("JPEG", "CMYK", {}), ("JPEG", "RGB", {"progressive": True}), ("GIF", "P", {}), ("BMP", "RGB", {}),
     ("BMP", "P", {}), ("TIFF", "RGB", {}), ("TIFF", "L", {}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {}),
     ("WEBP", "RGB", {"lossless": True}), ("WEBP", "RGBA", {"lossless": True})],
)  # fmt: skip
@pytest.mark.parametrize("size", [(7, 5), (1, 1), (640, 3)])
def test_images_are_what_pillow_says(tmp_path, format, mode, more, size):
    content = picture(format, size, mode, **more)
    kind, facts = told(tmp_path, content)
    opened = PIL.open(io.BytesIO(content))
    assert kind == PIL.MIME[format]
    assert (facts["width"], facts["height"], facts["problem"]) == (*size, None)
    if format != "WEBP" or not more:  # whether a lossless one has an opaque alpha channel is up to the encoder
        assert (facts["mode"], facts["channels"]) == (opened.mode, len(opened.getbands()))


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_when_a_picture_was_taken(tmp_path, format):
    exif = PIL.Exif()
    exif[0x0132] = "2020:01:01 00:00:00"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    assert str(told(tmp_path, picture(format, exif=exif))[1]["taken"]) == "2024-05-06 07:08:09"
    del exif.get_ifd(0x8769)[0x9003]
    assert str(told(tmp_path, picture(format, exif=exif))[1]["taken"]) == "2020-01-01 00:00:00"


@pytest.mark.parametrize("format", ["WAV", "AIFF", "FLAC", "OGG", "MP3"])
@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (44100, 2)])
def test_sounds_are_what_soundfile_says(tmp_path, format, rate, channels):
    soundfile = pytest.importorskip("soundfile")
    out = io.BytesIO()
    soundfile.write(out, np.random.default_rng(0).uniform(-0.1, 0.1, (rate // 2, channels)), rate, format=format)
    kind, facts = told(tmp_path, out.getvalue())
    assert kind.startswith("audio/")
    assert (facts["sample_rate"], facts["channels"], facts["problem"]) == (rate, channels, None)
    assert facts["duration"] == pytest.approx(0.5, abs=0.2 if format == "MP3" else 1e-9)


@pytest.mark.parametrize("format", ["mp4", "mov", "avi", "matroska"])
def test_videos_are_what_was_encoded(tmp_path, format):
    kind, facts = told(tmp_path, video(format=format))
    assert kind.startswith("video/")
    assert {k: facts.get(k) for k in ("width", "height", "fps", "codec", "problem")} == {
        "width": 64, "height": 48, "fps": 8.0, "codec": "mpeg4", "problem": None,
    }  # fmt: skip
    assert facts["duration"] == pytest.approx(1.5, abs=0.01)
    assert facts.get("frames", 12) == 12


def test_documents(tmp_path):
    pytest.importorskip("pypdf")
    kind, facts = told(tmp_path, pdf())
    assert (kind, facts) == (
        "application/pdf", {"pages": 1, "title": "A title", "text": "Hello there", "problem": None}
    )  # fmt: skip
    page = "<!DOCTYPE html><html><head><title>T &amp; U</title><style>x{}</style></head><body><h1>One</h1><script>no</script>two"
    kind, facts = told(tmp_path, page.encode())
    assert (kind, facts["title"], facts["text"]) == ("text/html", "T & U", "One\ntwo")
    kind, facts = told(tmp_path, "# Title\n\nText é\n".encode(), "x.md")
    assert (kind, facts["title"], facts["lines"], facts["encoding"]) == ("text/markdown", "Title", 3, "utf-8")
    kind, facts = told(tmp_path, "caf\xe9".encode("cp1252"), "x.txt")
    assert (kind, facts["text"], facts["lines"], facts["encoding"]) == ("text/plain", "café", 1, "cp1252")
    assert told(tmp_path, "é\n".encode("utf-16"), "x.txt")[1]["text"] == "é\n"


@pytest.mark.parametrize(
    ("content", "name", "kind"),
    [(b"PK\3\4....", "x.docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
     (b"PK\3\4....", "x.png", "application/zip"), (b"<svg xmlns='x'/>", "x", "image/svg+xml"), (b"", "x.png", "text/plain"),
     (b"a,b\n1,2\n", "x.csv", "text/csv"), (b"\0\1\2\3" * 9, "x.txt", "application/octet-stream"),
     (b"BM is text", "x", "text/plain"),
     (b"<?xml version='1.0'?><a/>", "x", "application/xml"), (b"\xff\xfb\x90\x00" * 9, "x", "audio/mpeg")],
)  # fmt: skip
def test_the_content_says_the_kind(content, name, kind):
    assert kinds.media_type(content, "." + name.partition(".")[2]) == kind


# --- damage -----------------------------------------------------------------------------------------------------------


GOOD = {
    "png": lambda: picture("PNG", (40, 30)), "jpg": lambda: picture("JPEG", (40, 30)),
    "gif": lambda: picture("GIF", (40, 30), "P"),
    "webp": lambda: picture("WEBP", (40, 30)), "bmp": lambda: picture("BMP", (40, 30)), "wav": sound, "mp4": video, "pdf": pdf,
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_what_is_cut_off_has_a_problem(tmp_path, kind):
    content = GOOD[kind]()
    assert told(tmp_path, content)[1]["problem"] is None
    for part in (0.9, 0.5):
        assert told(tmp_path, content[: int(len(content) * part)])[1]["problem"], part


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path):
    content = bytearray(picture("PNG"))
    content[content.index(b"IDAT") + 6] ^= 1
    assert "checksum of a part is wrong" in told(tmp_path, bytes(content))[1]["problem"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(GOOD)),
    edits=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=8),
    cut=st.integers(0, 300),
)
def test_no_damage_raises(tmp_path_factory, kind, edits, cut):
    content = bytearray(_good(kind))
    for at, value in edits:
        content[at % len(content)] = value
    path = tmp_path_factory.getbasetemp() / f"fuzzed-{kind}"
    path.write_bytes(content[:cut] if cut % 2 else content)
    found = rows.facts(path, kinds.media_type(bytes(content[: kinds.HEAD])), 1000)
    arrow = rows.arrow_schema(
        rows._schema(["image/png", "audio/wav", "video/mp4", "application/pdf", "text/plain"], [])
    )
    batch = rows._batch([{k: v for k, v in found.items() if k in arrow.names}], arrow)
    assert batch.num_rows == 1


_MADE: dict[str, bytes] = {}


def _good(kind):
    return _MADE.setdefault(kind, GOOD[kind]())


def png_of(width, height):
    """A PNG that declares a size and holds next to nothing."""

    def part(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(b"\0" * 1000)) + part(b"IEND", b"")


def test_pixel_bombs_are_rows_and_are_not_decoded(ws, make):
    ingest(ws, make({"bomb.png": png_of(60_000, 60_000), "odd.png": png_of(2**31, 1)}), "t")
    bomb, odd = table(ws)
    assert (bomb["width"], bomb["problem"]) == (60_000, None)
    assert (odd["width"], odd["problem"]) == (None, "its width cannot be")
    with pytest.raises(Invalid, match="60000 x 60000 pixels"):
        media.image(ws, bomb)


def test_a_pdf_that_unpacks_without_end_is_bounded(tmp_path):
    pytest.importorskip("pypdf")
    packed = zlib.compress(b"(a) Tj " * (20 << 20), 9)
    content = pdf().replace(b"<< /Length 42 >>", b"<< /Length 42 >>")
    bomb = content.replace(
        content[content.index(b"4 0 obj") : content.index(b"5 0 obj")],
        b"4 0 obj\n<< /Filter /FlateDecode /Length %d >> stream\n" % len(packed) + packed + b"\nendstream\nendobj\n",
    )
    facts = told(tmp_path, bomb)[1]
    assert facts["problem"]
    assert len(facts.get("text") or "") <= 20_000


def test_an_html_page_of_any_length_is_bounded(tmp_path):
    content = b"<html><body>" + b"<p>word " * 2_000_000
    facts = told(tmp_path, content)[1]
    assert len(facts["text"]) == documents.LONGEST


# --- rows and contents ------------------------------------------------------------------------------------------------


def test_pictures_in_folders_of_classes(ws, make):
    folder = make(
        {f"{kind}/{i}.png": picture("PNG", (4 + i, 3)) for kind in ("daisy", "tulips") for i in range(6)}
        | {"credits.csv": "a\n1\n", "LICENSE.txt": "free"}
    )  # fmt: skip
    got = ingest(ws, folder, "t")
    assert (got.dataset.rows, got.found["kinds"]) == (12, {"image/png": 12})
    assert got.found["ignored"] == ["LICENSE.txt (a note)", "credits.csv (a table beside the files)"]
    first = table(ws)[0]
    assert (first["path"], first["label"], first["width"], first["media_type"]) == (
        "daisy/0.png",
        "daisy",
        4,
        "image/png",
    )
    assert np.array_equal(media.image(ws, first), np.asarray(PIL.open(f"{folder}/daisy/0.png")))
    assert ingest(ws, folder, "t").new is False


def test_contents_are_blobs_that_the_table_names(ws, make):
    large = picture("PNG", (900, 800))
    assert len(large) > 1 << 19
    video_like = b"\0\0\0\x18ftypmp42" + np.random.default_rng(0).bytes(3 << 20)
    make({"a.png": large, "b.mp4": video_like})
    dataset = ingest(ws, make({"c.txt": "text"}), "t").dataset
    tree = tables.load_manifest(ws.blobs, dataset.manifest)["tree"]
    assert [e.path for e in trees.files(ws.blobs, tree)] == ["a.png", "b.mp4", "c.txt"]
    assert tables.present(ws.blobs, dataset.manifest)
    for row, content in zip(table(ws), (large, video_like, b"text"), strict=True):
        for asked in (row, row["digest"]):
            with media.opened(ws, asked) as file:
                assert file.read() == content
    held = media.contents(ws, "t")
    assert [r["content"] for r in held.table(["content"]).to_pylist()] == [large, video_like, b"text"]
    assert held.table(["path"]).column_names == ["path"]
    assert "content" not in datasets.load(ws, "t").columns
    ws.blobs.remove(next(e.digest for e in trees.files(ws.blobs, tree)))
    assert not tables.present(ws.blobs, dataset.manifest)


def test_a_file_that_looks_like_a_list_of_chunks_is_itself(ws, make):
    inner = ingest(ws, make({"x.bin": b"secret" * 9}), "s", options={"source": "files"})
    digest = table(ws, "s")[0]["digest"]
    assert inner.dataset.rows == 1
    ingest(ws, make({"y.bin": f"boucle chunks 1\n{digest} 54\n"}, "other"), "t", options={"source": "files"})
    with media.opened(ws, table(ws)[0]) as file:
        assert file.read().startswith(b"boucle chunks 1")


def test_a_batch_of_contents_is_small(ws, make, monkeypatch):
    monkeypatch.setattr(media.content, "_BYTES", 100)
    ingest(ws, make({f"{i}.bin": bytes([i]) * 40 for i in range(7)}), "t", options={"source": "files"})
    batches = list(media.contents(ws, "t").batches(["path", "content"]))
    assert [b.num_rows for b in batches] == [2, 2, 2, 1]
    with pytest.raises(Invalid, match="does not hold files"):
        ingest(ws, {"a": [1]}, "plain")
        media.contents(ws, "plain")


def test_new_pictures_are_appended_and_replaced_by_path(ws, make):
    options = {"new_files": True}
    ingest(ws, make({"1.png": picture("PNG")}), "t", mode="append", options=options)
    dataset = ingest(ws, make({"2.png": picture("PNG", (9, 9))}), "t", mode="append", options=options).dataset
    assert [r["width"] for r in table(ws)] == [7, 9]
    assert tables.present(ws.blobs, dataset.manifest)
    assert len(trees.files(ws.blobs, tables.load_manifest(ws.blobs, dataset.manifest)["tree"])) == 2
    make({"1.png": picture("PNG", (3, 3))})
    with pytest.raises(Conflict, match=r"1\.png is there already"):
        ingest(ws, make({}), "t", mode="append")
    dataset = ingest(ws, make({}), "t", mode="merge", key=["path"]).dataset
    assert [r["width"] for r in table(ws)] == [3, 9]
    assert tables.present(ws.blobs, dataset.manifest)


def test_a_dry_run_stores_no_contents(ws, make):
    seen = preview(ws, make({"1.png": picture("PNG")}))
    assert (seen["rows"], seen["found"]["kinds"]) == (1, {"image/png": 1})
    assert list(ws.blobs.list()) == []


def test_folders_that_are_named(ws, make):
    folder = make({"train/cat/1.png": picture("PNG"), "test/dog/1.png": picture("PNG")})
    ingest(ws, folder, "t", options={"folders": "split,animal"})
    assert [(r["split"], r["animal"]) for r in table(ws)] == [("test", "dog"), ("train", "cat")]
    with pytest.raises(Invalid, match="cannot be named 'size'"):
        ingest(ws, folder, "t", options={"folders": "size,animal"})


def test_a_folder_of_texts_keeps_its_readme(ws, make):
    ingest(ws, make({"README.md": "# Top", "guide/one.md": "One\n===\n"}), "t")
    assert [(r["path"], r["title"]) for r in table(ws)] == [("README.md", "Top"), ("guide/one.md", "One")]


def test_an_archive_of_pictures(ws, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for kind in ("a", "b"):
            archive.writestr(f"{kind}/1.png", picture("PNG"))
    ingest(ws, str(tmp_path / "x.zip"), "t")
    assert [(r["label"], r["width"]) for r in table(ws)] == [("a", 7), ("b", 7)]


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_plain_sound_needs_no_library(ws, make, monkeypatch, width):
    soundfile = pytest.importorskip("soundfile")
    folder = make({"x.wav": sound(width=width)})
    expected, rate = soundfile.read(f"{folder}/x.wav", dtype="float32", always_2d=True)
    ingest(ws, f"{folder}/x.wav", "t")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    samples, heard = media.audio(ws, table(ws)[0])
    assert (heard, samples.dtype) == (rate, np.float32)
    assert np.allclose(samples, expected, atol=1e-7)
    with pytest.raises(Invalid, match="1600 samples"):
        media.audio(ws, table(ws)[0], most=10)


def test_other_sound_and_video_are_decoded(ws, make):
    soundfile = pytest.importorskip("soundfile")
    out = io.BytesIO()
    soundfile.write(out, np.zeros((500, 1)), 8000, format="FLAC")
    ingest(ws, make({"a.flac": out.getvalue(), "b.mp4": video()}), "t")
    heard, seen = table(ws)
    assert media.audio(ws, heard)[0].shape == (500, 1)
    pictures = list(media.frames(ws, seen, every=5))
    assert [round(t, 3) for t, _ in pictures] == [0.0, 0.625, 1.25]
    assert {p.shape for _, p in pictures} == {(48, 64, 3)}
    with pytest.raises(Invalid, match="64 x 48 pixels"):
        next(media.frames(ws, seen, most=100))


def test_without_the_extra_it_is_said(ws, make, monkeypatch):
    for name in ("PIL", "PIL.Image", "pypdf", "av"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(rows, "_installed", lambda _: False)
    got = ingest(ws, make({"x.png": png_of(5, 5), "y.pdf": pdf()}), "t")
    shown, document = table(ws)
    assert (shown["width"], document["pages"], document["problem"]) == (5, None, None)
    assert got.found["more"] == ["pip install 'boucle[pdf]' tells pages, title and text of more of them"]
    with pytest.raises(MissingExtra, match="Pillow"):
        media.image(ws, shown)
    with pytest.raises(MissingExtra, match="pypdf"):
        media.text(ws, document)


def test_the_whole_text_of_a_document(ws, make):
    pytest.importorskip("pypdf")
    ingest(ws, make({"a.md": "word " * 9000, "b.pdf": pdf()}), "t", options={"source": "files"})
    long, document = table(ws)
    assert len(long["text"]) == documents.LONGEST
    assert len(media.text(ws, long)) == 45_000
    assert media.text(ws, document) == "Hello there"


def test_what_is_damaged_is_not_decoded(ws, make):
    ingest(ws, make({"x.png": picture("PNG", (50, 50))[:200], "y.wav": b"RIFF\0\0\0\0WAVEjunk"}), "t")
    shown, heard = table(ws)
    assert shown["problem"]
    assert heard["problem"]
    with pytest.raises(Invalid, match=r"x\.png cannot be decoded"):
        media.image(ws, shown)
    with pytest.raises(Invalid, match="no whole sound"):
        media.audio(ws, heard)
