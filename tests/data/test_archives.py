"""Archives: what comes out, what stays out, and that nothing hostile gets far."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from boucle.core.errors import BoucleError, Invalid
from boucle.data import archives
from boucle.data.archives import unpack

FILES = {"a.csv": b"x\n1\n", "in/b.csv": b"x\n2\n", "in/empty": b"", "block.bin": b"z" * 512, "n" * 180: b"y" * 70_000}


def tar(path: Path, members: dict[str, bytes], mode: str, **more: object) -> Path:
    with tarfile.open(path, mode, **more) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_700_000_000
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def taken(path: Path, folder: Path, **limits: int) -> dict[str, bytes]:
    folder.mkdir()
    return {m.path: m.local.read_bytes() for m in unpack(path, folder, **limits).members}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_tar_gives_back_what_went_in(tmp_path, mode, format):
    assert taken(tar(tmp_path / "x.tar", FILES, mode, format=format), tmp_path / "out") == FILES


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_gives_back_what_went_in(tmp_path, method):
    assert taken(zipped(tmp_path / "x.zip", FILES, method), tmp_path / "out") == FILES


def test_members_keep_order_size_and_time(tmp_path):
    (tmp_path / "out").mkdir()
    got = unpack(tar(tmp_path / "x.tar", FILES, "w"), tmp_path / "out").members
    assert [(m.path, m.size) for m in got] == [(n, len(c)) for n, c in FILES.items()]
    assert {m.modified for m in got} == {1_700_000_000.0}


NAMES = ["../up", "/abs", "a/../../up", "a\\..\\up", "c:\\x", "new\nline", "./../x", "a//b", "nul\x01"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere_stay_out(tmp_path, name):
    (tmp_path / "deep").mkdir()
    for make, path in ((tar, "x.tar"), (zipped, "x.zip")):
        archive = make(tmp_path / path, {name: b"evil", "good": b"1"}, *(["w"] if make is tar else []))
        (out := tmp_path / "deep" / path).mkdir()
        got = unpack(archive, out)
        assert [m.path for m in got.members] == ["good"]
        assert "lead elsewhere" in got.skipped[0]
    assert names(tmp_path) == ["deep", "x.tar", "x.zip"]
    assert names(tmp_path / "deep") == ["x.tar", "x.zip"]


def test_links_and_devices_stay_out(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (
            ("s", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
            ("d", tarfile.CHRTYPE),
            ("f", tarfile.FIFOTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("s")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    for name, count in (("x.tar", 4), ("x.zip", 1)):
        (tmp_path / f"{name}.out").mkdir()
        got = unpack(tmp_path / name, tmp_path / f"{name}.out")
        assert got.members == []
        assert got.skipped[0].startswith("not a plain file: 's'")
        assert got.skipped[0].count("'") == 2 * count


def test_of_members_with_one_name_the_last_counts(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for content in (b"old", b"newer"):
            info = tarfile.TarInfo("a")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert taken(tmp_path / "x.tar", tmp_path / "out") == {"a": b"newer"}
    assert len(names(tmp_path / "out")) == 1


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.xz"])
def test_bombs_are_stopped(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(archives.files, "UNPACKED", 1 << 20)
    zeros = {"a": bytes(1 << 22)}
    path = tmp_path / f"x.{kind}"
    zipped(path, zeros) if kind == "zip" else tar(path, zeros, f"w:{kind[4:]}")
    with pytest.raises(Invalid, match="unpacks to more than") as caught:
        taken(path, tmp_path / "out")
    assert "largest=" in caught.value.fix
    assert sum(p.stat().st_size for p in (tmp_path / "out").iterdir()) <= 1 << 20
    assert len(taken(path, tmp_path / "again", largest=1 << 23)["a"]) == 1 << 22


def test_many_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MOST", 3)
    with pytest.raises(Invalid, match="more than 3 members"):
        taken(zipped(tmp_path / "x.zip", FILES), tmp_path / "out")
    monkeypatch.setattr(archives, "_INDEX", 10)
    with pytest.raises(Invalid, match="list of members"):
        taken(tmp_path / "x.zip", tmp_path / "out2")


def test_a_tar_header_of_any_size_is_not_read_into_memory(tmp_path):
    """A pax header of 1 GiB, which tarfile would read at once."""
    info = tarfile.TarInfo("././@PaxHeader")
    info.type, info.size = tarfile.XHDTYPE, 1 << 30
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.USTAR_FORMAT) + b"10 path=a\n".ljust(10_240, b"\0"))
    with pytest.raises(Invalid, match="a header of"):
        taken(tmp_path / "x.tar", tmp_path / "out")


def test_encrypted_members_are_refused(tmp_path):
    data = bytearray(zipped(tmp_path / "x.zip", {"a": b"1"}).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(Invalid, match="encrypted"):
        taken(tmp_path / "x.zip", tmp_path / "out")


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\3\4", b"not an archive", b"\x1f\x8bjunk", b"\0" * 5000])
def test_what_is_no_archive(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    try:
        assert taken(tmp_path / "x", tmp_path / "out") == {}
    except Invalid as error:
        assert "not a whole archive" in str(error) or "cut off or damaged" in str(error)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["zip", "tar", "gz"]),
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 10_000),
)
def test_damage_gives_an_error_or_files_and_stays_inside(tmp_path_factory, kind, edits, cut):
    root = tmp_path_factory.mktemp("fuzz")
    path = root / "x"
    few = {"a.csv": b"x\n1\n" * 40, "in/b.csv": b"x\n2\n", "l" * 120: b""}
    zipped(path, few) if kind == "zip" else tar(path, few, "w:gz" if kind == "gz" else "w", format=tarfile.PAX_FORMAT)
    data = bytearray(path.read_bytes())
    for at, value in edits:
        data[at % len(data)] = value
    path.write_bytes(data[: len(data) - cut % len(data)] if cut % 3 == 0 else data)
    (root / "out").mkdir()
    try:
        for member in unpack(path, root / "out", largest=1 << 20).members:
            assert member.local.parent == root / "out"
            assert member.local.stat().st_size == member.size
    except BoucleError as error:
        assert isinstance(error, Invalid)
    assert names(root) == ["out", "x"]
