"""What the boxes of MP4 and QuickTime files say (ISO/IEC 14496-12): size, duration, frames, codec. Other videos are asked of
PyAV where it is installed."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

Facts = dict[str, Any]

_CUT = "the file is cut off"
_BOXES = 10_000  # that are looked at in one file
_INNER = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}
_CODECS = {
    "avc1": "h264", "avc3": "h264", "hvc1": "hevc", "hev1": "hevc", "av01": "av1", "vp09": "vp9", "vp08": "vp8", "mp4v": "mpeg4",
    "mp4a": "aac", "Opus": "opus", "fLaC": "flac", "ac-3": "ac3", ".mp3": "mp3", "jpeg": "mjpeg",
}  # fmt: skip


def facts(file: BinaryIO, size: int, found: Facts) -> str:
    """Put width, height, duration, fps, frames, codec, and of the sound sample_rate and channels into `found`; returns what is
    wrong with the file, or ''."""
    tracks: list[Facts] = []
    try:
        problem = _walk(file, size, tracks, found)
    except (struct.error, IndexError, UnicodeDecodeError):
        return "its index is damaged"
    for track in tracks:
        if track.get("handler") == b"vide" and "codec" not in found:
            found |= {k: track[k] for k in ("width", "height", "codec") if k in track}
            seconds = track["length"] / track["scale"] if track.get("scale") else 0.0
            if track.get("frames"):
                found["frames"] = track["frames"]
                if seconds:
                    found["fps"] = round(track["frames"] / seconds, 6)
        elif track.get("handler") == b"soun" and "sample_rate" not in found:
            found |= {k: track[k] for k in ("sample_rate", "channels") if k in track}
            found["audio_codec"] = track.get("codec")
    if not problem and not tracks:
        problem = f"{_CUT}: its index is missing"
    return problem


def _walk(file: BinaryIO, size: int, tracks: list[Facts], found: Facts) -> str:
    problem, media = "", False
    for name, start, end in _boxes(file, 0, size, [_BOXES]):
        if name == b"mdat":
            media = True
        if end > size:
            problem = _CUT
            continue
        if name == b"trak":
            tracks.append({})
        elif name == b"mvhd":
            length, scale = _times(file, start)
            if scale:
                found["duration"] = length / scale
        elif tracks:
            _track(file, name, start, end, tracks[-1])
    return problem or ("" if media or not tracks else "it has no media in it")


def _boxes(file: BinaryIO, start: int, end: int, left: list[int]) -> Iterator[tuple[bytes, int, int]]:
    """Name, begin and end of the content of each box, from the outside in."""
    while start + 8 <= end:
        left[0] -= 1
        if left[0] < 0:
            raise struct.error
        file.seek(start)
        length, name = struct.unpack(">I4s", file.read(8))
        head = 8
        if length == 1:
            (length,), head = struct.unpack(">Q", file.read(8)), 16
        elif length == 0:
            length = end - start
        if length < head:
            raise struct.error
        yield name, start + head, start + length
        if name in _INNER:
            yield from _boxes(file, start + head, min(end, start + length), left)
        start += length


def _times(file: BinaryIO, start: int) -> tuple[int, int]:
    """Duration and time scale of a movie or media header."""
    file.seek(start)
    if file.read(1) == b"\1":
        file.seek(start + 20)
        scale, length = struct.unpack(">IQ", file.read(12))
    else:
        file.seek(start + 12)
        scale, length = struct.unpack(">II", file.read(8))
    return length, scale


def _track(file: BinaryIO, name: bytes, start: int, end: int, track: Facts) -> None:
    if name == b"mdhd":
        track["length"], track["scale"] = _times(file, start)
    elif name == b"hdlr":
        file.seek(start + 8)
        track.setdefault("handler", file.read(4))
    elif name == b"stsd":
        file.seek(start + 8)
        _, kind = struct.unpack(">I4s", file.read(8))
        track["codec"] = _CODECS.get(kind.decode("latin-1"), kind.decode("latin-1").strip())
        if track.get("handler") == b"vide":
            file.seek(start + 8 + 32)
            track["width"], track["height"] = struct.unpack(">HH", file.read(4))
        elif track.get("handler") == b"soun":
            file.seek(start + 8 + 24)
            track["channels"], _, _, _, rate = struct.unpack(">HHHHI", file.read(12))
            track["sample_rate"] = rate >> 16
    elif name == b"stts":
        file.seek(start + 4)
        (count,) = struct.unpack(">I", file.read(4))
        if start + 8 + 8 * count > end:
            raise struct.error
        total = 0
        for _ in range(count):
            total += struct.unpack(">I", file.read(8)[:4])[0]
        track["frames"] = total


def asked_of_av(file: BinaryIO, found: Facts) -> str:
    """What PyAV tells of a video or sound; raises `ImportError` where it is not installed."""
    import av

    try:
        with av.open(file, mode="r", metadata_errors="ignore") as opened:
            if opened.duration:
                found["duration"] = opened.duration / 1_000_000
            for video in opened.streams.video[:1]:
                found |= {"width": video.width, "height": video.height, "codec": video.codec_context.name}
                if video.average_rate:
                    found["fps"] = round(float(video.average_rate), 6)
                if video.frames:
                    found["frames"] = video.frames
            for sound in opened.streams.audio[:1]:
                found |= {"sample_rate": sound.rate, "channels": sound.channels}
    except (av.FFmpegError, ValueError, OSError) as error:
        return f"it cannot be opened: {str(error)[:200]}"
    return ""
