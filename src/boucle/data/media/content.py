"""The bytes behind a row, decoded when they are asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa

from boucle.core import chunks
from boucle.core.errors import Invalid, MissingExtra
from boucle.core.frames import Frame, arrow_type
from boucle.core.refs import Ref
from boucle.core.schema import Column, Schema
from boucle.data.media import documents, kinds, pictures, sounds
from boucle.ledger import datasets, trees
from boucle.ports.lookup import missing_extra

if TYPE_CHECKING:
    from boucle.workspace import Workspace

PIXELS = 100_000_000  # that an image may have
SAMPLES = 500_000_000  # that a sound may have
_BYTES, _CELL = 8 << 20, 1 << 30  # of contents in a batch, and of one content in a table

Row = Mapping[str, Any] | str


def opened(ws: Workspace, row: Row) -> BinaryIO:
    """A seekable reader of the file that a row (with its `digest` and `size`), or a digest, stands for; raises `NotFound`."""
    digest, size = (row, None) if isinstance(row, str) else (row["digest"], row["size"])
    if not digest:
        raise Invalid("the row has no digest", expected="a row of a dataset that was ingested, not of a dry run")
    there = ws.blobs.size(digest)
    # A file of more than a chunk is stored as a list of chunks, which is shorter than what it stands for.
    cut = there != size if size is not None else _is_list(ws, digest)
    total = (
        size
        if size is not None
        else sum(n for _, n in chunks.from_list(ws.blobs.get(digest), digest))
        if cut
        else there
    )
    return trees.open_file(ws.blobs, trees.Entry("", "F" if cut else "f", total, digest))


def _is_list(ws: Workspace, digest: str) -> bool:
    with ws.blobs.open(digest) as file:
        return file.read(len(chunks.to_list([]))) == chunks.to_list([])


def contents(ws: Workspace, ref: Ref | str) -> Frame:
    """A dataset of files with one column more, `content`: the bytes, read only when it is asked for, a few MiB at a time."""
    frame = datasets.load(ws, ref)
    if not {"digest", "size"} <= set(frame.columns):
        raise Invalid(f"{ref} does not hold files", expected="columns digest and size, as files that are ingested have")
    schema = Schema((*frame.schema.columns, Column("content", "binary")))

    def opener(columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
        names = list(schema.names if columns is None else columns)
        if "content" not in names:
            yield from frame.batches(names)
            return
        asked = [n for n in names if n != "content"]
        for batch in frame.batches([*asked, *(n for n in ("digest", "size") if n not in asked)]):
            start = 0
            while start < batch.num_rows:
                part, values = _some(ws, batch, start)
                start += part.num_rows
                yield pa.RecordBatch.from_arrays(
                    [values if n == "content" else part.column(n) for n in names], names=names
                )

    return Frame(schema, opener, frame.rows)


def _some(ws: Workspace, batch: pa.RecordBatch, start: int) -> tuple[pa.RecordBatch, pa.Array]:
    values: list[bytes] = []
    held = 0
    for i in range(start, batch.num_rows):
        size, digest = batch.column("size")[i].as_py(), batch.column("digest")[i].as_py()
        if size > _CELL:
            raise Invalid(
                f"a file has {size:,} bytes", expected=f"at most {_CELL:,} in a cell", fix="read it with opened"
            )
        if values and held + size > _BYTES:
            break
        with opened(ws, {"digest": digest, "size": size}) as file:
            values.append(file.read())
        held += size
    return batch.slice(start, len(values)), pa.array(values, arrow_type("binary"))


def image(ws: Workspace, row: Row, mode: str = "RGB", most: int = PIXELS) -> np.ndarray[Any, Any]:
    """The picture as an array of shape (height, width, channels), or (height, width) for mode L; needs the extra `images`.

    Raises `Invalid` for what is no whole image, or has more than `most` pixels.
    """
    image_library = _library("PIL.Image", "images", "Pillow")
    with opened(ws, row) as file:
        size, declared = file.seek(0, io.SEEK_END), dict[str, Any]()
        file.seek(0)
        pictures.facts(kinds.media_type(file.read(kinds.HEAD)), file, size, declared)
        if declared.get("width", 0) * declared.get("height", 0) > most:
            raise _too_many(f"{declared['width']} x {declared['height']} pixels", most)
        file.seek(0)
        try:
            with _quiet(), image_library.open(file) as picture:
                if picture.width * picture.height > most:
                    raise _too_many(f"{picture.width} x {picture.height} pixels", most)
                return np.asarray(picture.convert(mode))
        except (OSError, SyntaxError, ValueError, EOFError, image_library.DecompressionBombError) as error:
            if isinstance(error, Invalid):
                raise
            raise _damaged(row, error) from None


def asked_of_pillow(file: BinaryIO, found: dict[str, Any]) -> str:
    """What Pillow tells of an image; raises `ImportError` where it is not installed."""
    from PIL import Image

    try:
        with _quiet(), Image.open(file) as picture:
            found |= {"width": picture.width, "height": picture.height, "mode": picture.mode}
            found["channels"] = len(picture.getbands())
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        return f"it cannot be opened: {str(error)[:200]}"
    return ""


def audio(ws: Workspace, row: Row, most: int = SAMPLES) -> tuple[np.ndarray[Any, Any], int]:
    """Samples from -1 to 1 as float32 of shape (frames, channels), and the sample rate in Hz.

    Plain WAVE needs nothing; other formats need the extra `audio`. Raises `Invalid` for what is no whole sound, or has more
    than `most` samples.
    """
    with opened(ws, row) as file:
        head = file.read(kinds.HEAD)
        size = file.seek(0, io.SEEK_END)
        if kinds.media_type(head) == "audio/wav" and (plain := _wave(file, size, most)) is not None:
            return plain
        library = _library("soundfile", "audio", "soundfile")
        file.seek(0)
        try:
            with library.SoundFile(file) as sound:
                if sound.frames * sound.channels > most:
                    raise _too_many(f"{sound.frames * sound.channels} samples", most)
                return sound.read(dtype="float32", always_2d=True), sound.samplerate
        except (library.SoundFileError, RuntimeError, ValueError) as error:
            if isinstance(error, Invalid):
                raise
            raise _damaged(row, error) from None


def _wave(file: BinaryIO, size: int, most: int) -> tuple[np.ndarray[Any, Any], int] | None:
    """The samples of a WAVE file in PCM or floats, None for other codings."""
    import struct

    try:
        (tag, channels, rate, _, width, bits), start, _, there = sounds.wave_format(file, size)
    except struct.error:
        raise Invalid("the file is no whole sound", expected="a WAVE file with a format and samples") from None
    kinds_of = {(1, 8): "u1", (1, 16): "<i2", (1, 24): "", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
    if (tag, bits) not in kinds_of or not channels or width != channels * bits // 8:
        return None
    frames = there // width
    if frames * channels > most:
        raise _too_many(f"{frames * channels} samples", most)
    file.seek(start)
    raw = file.read(frames * width)
    if bits == 24:
        thirds = np.frombuffer(raw, np.uint8).reshape(-1, 3).astype(np.int32)
        values = ((thirds[:, 0] << 8 | thirds[:, 1] << 16 | thirds[:, 2] << 24) >> 8).astype(np.float32) / 2**23
    else:
        values = np.frombuffer(raw, kinds_of[tag, bits]).astype(np.float32)
        if tag == 1:
            values = (values - 128) / 128 if bits == 8 else values / 2.0 ** (bits - 1)
    return values.astype(np.float32).reshape(-1, channels), rate


def frames(
    ws: Workspace, row: Row, *, every: int = 1, most: int = PIXELS
) -> Iterator[tuple[float, np.ndarray[Any, Any]]]:
    """The pictures of a video, each `every`-th of them: seconds from the start, and an array of shape (height, width, 3).

    One is in memory at a time. Needs the extra `video`. Raises `Invalid` for what is no whole video, or has pictures of more than
    `most` pixels.
    """
    if every < 1:
        raise Invalid(f"every={every}", expected="1 or more")
    library = _library("av", "video", "av")
    with opened(ws, row) as file:
        try:
            with library.open(file, mode="r", metadata_errors="ignore") as video:
                if not video.streams.video:
                    raise Invalid("there are no pictures in the file", expected="a video")
                stream = video.streams.video[0]
                if stream.width * stream.height > most:
                    raise _too_many(f"{stream.width} x {stream.height} pixels", most)
                for i, frame in enumerate(video.decode(stream)):
                    if i % every == 0:
                        yield float(frame.time or 0.0), frame.to_ndarray(format="rgb24")
        except (library.FFmpegError, ValueError, OSError) as error:
            if isinstance(error, Invalid):
                raise
            raise _damaged(row, error) from None


def text(ws: Workspace, row: Row, most: int = 10_000_000) -> str:
    """The text of a document, of which the row may hold the beginning only, up to `most` characters."""
    found: dict[str, Any] = {}
    with opened(ws, row) as file:
        kind = kinds.media_type(file.read(kinds.HEAD), "." + _path(row).rpartition(".")[2].lower())
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if kind == "application/pdf":
            try:
                documents.pdf(file, found, most)
            except ImportError as error:
                raise missing_extra(str(error.name), "pdf", "media") from None
        elif kind == "text/html":
            documents.html(file, size, found, most)
        elif kind.startswith("text/") or (kinds.is_text(kind.encode()) and kind != "application/octet-stream"):
            documents.plain(file, size, found, most)
    if found.get("text") is None:
        raise Invalid(f"{_path(row) or 'the file'} has no text to read ({kind})", expected="a PDF, HTML or text file")
    return str(found["text"])


def _path(row: Row) -> str:
    return "" if isinstance(row, str) else str(row.get("path", ""))


def _library(module: str, extra: str, name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        error: MissingExtra = missing_extra(name, extra, "media")
        raise error from None


def _quiet() -> Any:
    """Pillow warns of what is bounded here already."""
    import warnings

    return warnings.catch_warnings(action="ignore")


def _too_many(what: str, most: int) -> Invalid:
    return Invalid(f"the file declares {what}", expected=f"at most {most:,}", fix="if it is right, say most=")


def _damaged(row: Row, error: Exception) -> Invalid:
    return Invalid(
        f"{_path(row) or 'the file'} cannot be decoded: {str(error)[:200]}", expected="a whole file of its kind"
    )
