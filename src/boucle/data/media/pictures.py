"""What the headers of images say: size, channels, when it was taken; and whether the file is whole. Nothing is decoded.

PNG (ISO/IEC 15948), JPEG (ITU-T T.81) with Exif 2.3, GIF89a, WebP (RFC 9649), BMP, TIFF 6.0.
"""

from __future__ import annotations

import datetime as dt
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

Facts = dict[str, Any]

_CUT = "the file is cut off"
_MOST = 4096  # parts of a file that are looked at
_EXIF = 1 << 16
_PNG_MODES = {0: ("L", 1), 2: ("RGB", 3), 3: ("P", 1), 4: ("LA", 2), 6: ("RGBA", 4)}
_TIFF_MODES = {0: "L", 1: "L", 2: "RGB", 3: "P", 5: "CMYK", 6: "YCbCr"}


def facts(kind: str, file: BinaryIO, size: int, found: Facts) -> str:
    """Put width, height, channels, mode and taken into `found`; returns what is wrong with the file, or ''."""
    reader = _READERS.get(kind)
    if reader is None:
        return ""
    try:
        problem = reader(file, size, found)
    except (struct.error, IndexError):
        problem = _CUT
    if not problem and ("width" not in found or found["width"] <= 0 or found["height"] <= 0):
        problem = "it does not say its size"
    return problem


def _png(file: BinaryIO, size: int, found: Facts) -> str:
    at, first, data = 8, True, False
    for _ in range(1 << 20):
        file.seek(at)
        length, name = struct.unpack(">I4s", file.read(8))
        if at + 12 + length > size:
            return _CUT
        if first:
            if name != b"IHDR" or length != 13:
                return "it does not begin with its header"
            width, height, depth, color = struct.unpack(">IIBB", file.read(10))
            mode, channels = _PNG_MODES.get(color, ("", 0))
            found |= {
                "width": width,
                "height": height,
                "mode": f"{mode};16" if depth == 16 else mode,
                "channels": channels,
            }
        file.seek(at + 4)
        check = 0
        left = length + 4
        while left:
            piece = file.read(min(left, 1 << 20))
            check, left = zlib.crc32(piece, check), left - len(piece)
            if name == b"eXIf" and length <= _EXIF:
                _exif(piece[4:], found)
        if check != struct.unpack(">I", file.read(4))[0]:
            return f"the checksum of a part is wrong ({name.decode('latin-1')!r} at byte {at})"
        first, data, at = False, data or name == b"IDAT", at + 12 + length
        if name == b"IEND":
            return "" if data else "it has no picture in it"
    return "it has too many parts"


def _jpeg(file: BinaryIO, size: int, found: Facts) -> str:
    at = 2
    for _ in range(_MOST):
        file.seek(at)
        marker = file.read(2)
        if len(marker) < 2:
            return _CUT
        if marker[0] != 0xFF:
            return f"there is no marker at byte {at}"
        if marker[1] == 0xFF:
            at += 1
            continue
        if marker[1] == 0x01 or 0xD0 <= marker[1] <= 0xD8:
            at += 2
            continue
        if marker[1] == 0xD9:
            return "it has no picture in it"
        (length,) = struct.unpack(">H", file.read(2))
        if length < 2 or at + 2 + length > size:
            return _CUT
        if marker[1] == 0xE1 and length > 8:
            segment = file.read(length - 2)
            if segment.startswith(b"Exif\0\0"):
                _exif(segment[6:], found)
        elif 0xC0 <= marker[1] <= 0xCF and marker[1] not in (0xC4, 0xC8, 0xCC):
            _, height, width, channels = struct.unpack(">BHHB", file.read(6))
            found |= {"width": width, "height": height, "channels": channels}
            found["mode"] = {1: "L", 3: "RGB", 4: "CMYK"}.get(channels, "")
        elif marker[1] == 0xDA:
            # The end mark is not always the last bytes: cameras put things behind it.
            file.seek(max(at, size - (1 << 16)))
            tail = file.read(1 << 16)
            return "" if b"\xff\xd9" in tail else f"{_CUT}: it has no end mark"
        at += 2 + length
    return "it has too many parts"


def _gif(file: BinaryIO, size: int, found: Facts) -> str:
    file.seek(6)
    width, height = struct.unpack("<HH", file.read(4))
    found |= {"width": width, "height": height, "channels": 1, "mode": "P"}
    file.seek(max(0, size - 64))
    return "" if file.read(64).rstrip(b"\0").endswith(b";") else f"{_CUT}: it has no end mark"


def _webp(file: BinaryIO, size: int, found: Facts) -> str:
    file.seek(4)
    (declared,) = struct.unpack("<I", file.read(4))
    file.seek(12)
    name, _ = struct.unpack("<4sI", file.read(8))
    head = file.read(10)
    if name == b"VP8 ":
        width, height = struct.unpack("<HH", head[6:10])
        found |= {"width": width & 0x3FFF, "height": height & 0x3FFF, "channels": 3, "mode": "RGB"}
    elif name == b"VP8L":
        (bits,) = struct.unpack("<I", head[1:5])
        alpha = bits >> 28 & 1
        found |= {"width": (bits & 0x3FFF) + 1, "height": (bits >> 14 & 0x3FFF) + 1}
        found |= {"channels": 3 + alpha, "mode": "RGBA" if alpha else "RGB"}
    elif name == b"VP8X":
        alpha = head[0] >> 4 & 1
        found |= {"width": int.from_bytes(head[4:7], "little") + 1, "height": int.from_bytes(head[7:10], "little") + 1}
        found |= {"channels": 3 + alpha, "mode": "RGBA" if alpha else "RGB"}
    return _CUT if declared + 8 > size else ""


def _bmp(file: BinaryIO, size: int, found: Facts) -> str:
    file.seek(2)
    declared, _, _, header = struct.unpack("<IIII", file.read(16))
    if header == 12:
        width, height, _, bits = struct.unpack("<HHHH", file.read(8))
    else:
        width, height, _, bits = struct.unpack("<iiHH", file.read(12))
    channels = {1: 1, 4: 1, 8: 1, 16: 3, 24: 3, 32: 4}.get(bits, 0)
    found |= {"width": width, "height": abs(height), "channels": channels}
    found["mode"] = {1: "P", 3: "RGB", 4: "RGBA"}.get(channels, "")
    return _CUT if declared > size else ""


def _tiff(file: BinaryIO, size: int, found: Facts) -> str:
    file.seek(0)
    head = file.read(8)
    order = "<" if head[:2] == b"II" else ">"
    (at,) = struct.unpack(order + "I", head[4:8])
    if at >= size:
        return _CUT
    file.seek(at)
    (count,) = struct.unpack(order + "H", file.read(2))
    found["channels"] = 1
    for _ in range(min(count, _MOST)):
        tag, kind, number = struct.unpack(order + "HHI", file.read(8))
        raw = file.read(4)
        value = struct.unpack(order + ("H" if kind == 3 else "I"), raw[:2] if kind == 3 else raw)[0]
        if tag in (256, 257):
            found["width" if tag == 256 else "height"] = value
        elif tag == 262:
            found["mode"] = _TIFF_MODES.get(value, "")
        elif tag == 277:
            found["channels"] = value
        elif tag == 306 and number == 20 and value + 20 <= size:
            here = file.tell()
            file.seek(value)
            _taken(file.read(19), found)
            file.seek(here)
    return ""


def _exif(data: bytes, found: Facts) -> None:
    """When a picture was taken, from the tags DateTimeOriginal or DateTime; what is damaged says nothing."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        for _ in range(2):
            (count,) = struct.unpack_from(order + "H", data, at)
            inner = 0
            for i in range(min(count, 512)):
                tag, _, number, value = struct.unpack_from(order + "HHII", data, at + 2 + 12 * i)
                if tag in (0x0132, 0x9003) and number == 20 and (tag == 0x9003 or "taken" not in found):
                    _taken(data[value : value + 19], found)
                elif tag == 0x8769:
                    inner = value
            if not inner:
                return
            at = inner
    except struct.error:
        return


def _taken(raw: bytes, found: Facts) -> None:
    parts = re.fullmatch(rb"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)", raw)
    if parts:
        try:
            found["taken"] = dt.datetime(*map(int, parts.groups()))  # type: ignore[arg-type]
        except ValueError:
            return


_READERS: dict[str, Callable[[BinaryIO, int, Facts], str]] = {
    "image/png": _png, "image/jpeg": _jpeg, "image/gif": _gif, "image/webp": _webp, "image/bmp": _bmp, "image/tiff": _tiff,
}  # fmt: skip
