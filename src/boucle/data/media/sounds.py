"""What the headers of sounds say: sample rate, channels, duration in seconds; and whether the file is whole.

WAVE (RIFF, Microsoft 1991; EBU Tech 3306), AIFF, FLAC (RFC 9639), Ogg Vorbis and Opus (RFC 3533, 7845), MPEG audio (ISO/IEC
11172-3), whose duration is that of its Xing header or, for want of one, of its first frame's bit rate.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, BinaryIO

Facts = dict[str, Any]

_CUT = "the file is cut off"
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_BITS = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}


def facts(kind: str, file: BinaryIO, size: int, found: Facts) -> str:
    """Put sample_rate, channels and duration into `found`; returns what is wrong with the file, or ''."""
    reader = _READERS.get(kind)
    if reader is None:
        return ""
    try:
        problem = reader(file, size, found)
    except (struct.error, IndexError, OverflowError):
        problem = _CUT
    if not problem and not found.get("sample_rate"):
        problem = "it does not say its sample rate"
    return problem


def wave_format(file: BinaryIO, size: int) -> tuple[tuple[int, ...], int, int, int]:
    """Of a WAVE file its format (tag, channels, rate, bytes per second, bytes per frame, bits), and where the samples begin, how
    many bytes there should be, and how many there are; raises `struct.error` where it has none."""
    at, form = 12, None
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"fmt ":
            raw = file.read(min(length, 40))
            form = struct.unpack("<HHIIHH", raw[:16])
            if form[0] == 0xFFFE and len(raw) >= 26:
                form = (struct.unpack("<H", raw[24:26])[0], *form[1:])
        elif name == b"data":
            if form is None:
                break
            return form, at + 8, length, min(length, size - at - 8)
        at += 8 + length + (length & 1)
    raise struct.error


def _wave(file: BinaryIO, size: int, found: Facts) -> str:
    form, _, declared, there = wave_format(file, size)
    found |= {"sample_rate": form[2], "channels": form[1]}
    if form[3]:
        found["duration"] = there / form[3]
    streamed = declared in (0xFFFFFFFF, 0x7FFFFFFF)  # written to a pipe: the length was not known
    return "" if there == declared or streamed else f"{_CUT}: {there} of {declared} bytes of sound"


def _aiff(file: BinaryIO, size: int, found: Facts) -> str:
    at, problem = 12, ""
    while at + 8 <= size:
        file.seek(at)
        name, length = struct.unpack(">4sI", file.read(8))
        if name == b"COMM":
            channels, frames, _, exponent, mantissa = struct.unpack(">hIhHQ", file.read(18))
            rate = mantissa * 2.0 ** ((exponent & 0x7FFF) - 16383 - 63)
            found |= {"sample_rate": int(rate), "channels": channels, "duration": frames / rate if rate else None}
        if at + 8 + length > size:
            problem = _CUT
        at += 8 + length + (length & 1)
    return problem


def _flac(file: BinaryIO, size: int, found: Facts) -> str:
    file.seek(4)
    head = file.read(4)
    if head[0] & 0x7F or size < 42:
        return "it does not begin with its header"
    file.seek(18)
    (bits,) = struct.unpack(">Q", file.read(8))
    rate, frames = bits >> 44, bits & (1 << 36) - 1
    found |= {"sample_rate": rate, "channels": (bits >> 41 & 7) + 1}
    if rate and frames:
        found["duration"] = frames / rate
    return ""


def _ogg(file: BinaryIO, size: int, found: Facts) -> str:
    file.seek(0)
    head = file.read(128)
    skip = 0
    if (at := head.find(b"\x01vorbis")) >= 0:
        channels, rate = struct.unpack_from("<BI", head, at + 11)
        clock = rate
    elif (at := head.find(b"OpusHead")) >= 0:
        channels, skip, rate = struct.unpack_from("<BHI", head, at + 9)
        clock = 48000
    else:
        return ""
    found |= {"sample_rate": rate, "channels": channels}
    file.seek(max(0, size - (1 << 17)))
    tail = file.read(1 << 17)
    last = tail.rfind(b"OggS")
    if last < 0 or last + 14 > len(tail):
        return _CUT
    flags, position = struct.unpack_from("<Bq", tail, last + 5)
    if clock and position > 0:
        found["duration"] = max(0, position - skip) / clock
    return "" if flags & 4 else f"{_CUT}: its last page is missing"


def _mpeg(file: BinaryIO, size: int, found: Facts) -> str:
    file.seek(0)
    start, head = 0, file.read(10)
    if head[:3] == b"ID3":
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(start)
    data = file.read(1 << 14)
    for at in range(max(0, len(data) - 4)):
        if data[at] != 0xFF or data[at + 1] & 0xE0 != 0xE0:
            continue
        version, layer = data[at + 1] >> 3 & 3, 4 - (data[at + 1] >> 1 & 3)
        rate, bits = data[at + 2] >> 2 & 3, data[at + 2] >> 4
        if version == 1 or layer == 4 or rate == 3 or bits in (0, 15):
            continue
        hertz = _RATES[version][rate]
        mono = data[at + 3] >> 6 == 3
        found |= {"sample_rate": hertz, "channels": 1 if mono else 2}
        samples = 384 if layer == 1 else 576 if layer == 3 and version != 3 else 1152
        side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
        if data[at + 4 + side : at + 8 + side] in (b"Xing", b"Info") and data[at + 11 + side] & 1:
            (frames,) = struct.unpack_from(">I", data, at + 12 + side)
            found["duration"] = frames * samples / hertz
        else:
            kilobits = _BITS[(1, layer) if version == 3 else (2, min(layer, 2))][bits]
            found["duration"] = (size - start - at) / (kilobits * 125)
        return ""
    return "there is no sound in it"


_READERS: dict[str, Callable[[BinaryIO, int, Facts], str]] = {
    "audio/wav": _wave, "audio/aiff": _aiff, "audio/flac": _flac, "audio/ogg": _ogg, "audio/opus": _ogg, "audio/mpeg": _mpeg,
}  # fmt: skip
