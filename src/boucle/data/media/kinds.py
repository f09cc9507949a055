"""What a file holds, by how it begins; its name only refines what is text."""

from __future__ import annotations

import re

HEAD = 4096  # bytes that tell

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF87a", "image/gif"), (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"), (b"II*\0", "image/tiff"), (b"MM\0*", "image/tiff"), (b"\0\0\1\0", "image/vnd.microsoft.icon"),
    (b"\0\0\0\x0cjP  \r\n", "image/jp2"), (b"8BPS", "image/vnd.adobe.photoshop"),
    (b"fLaC", "audio/flac"), (b"ID3", "audio/mpeg"), (b"MThd", "audio/midi"),
    (b"\x1aE\xdf\xa3", "video/x-matroska"), (b"FLV\1", "video/x-flv"), (b"\0\0\1\xba", "video/mpeg"),
    (b"%PDF-", "application/pdf"), (b"{\\rtf", "application/rtf"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (b"PK\3\4", "application/zip"), (b"\x1f\x8b", "application/gzip"), (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"), (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"PAR1", "application/vnd.apache.parquet"), (b"SQLite format 3\0", "application/vnd.sqlite3"),
    (b"\x7fELF", "application/x-elf"), (b"\x89HDF\r\n\x1a\n", "application/x-hdf5"), (b"\x93NUMPY", "application/x-numpy"),
)  # fmt: skip
_RIFF = {b"WAVE": "audio/wav", b"WEBP": "image/webp", b"AVI ": "video/x-msvideo"}
_BRANDS = {
    b"qt  ": "video/quicktime", b"M4A ": "audio/mp4", b"M4B ": "audio/mp4", b"heic": "image/heic", b"heix": "image/heic",
    b"mif1": "image/heif", b"avif": "image/avif", b"avis": "image/avif", b"3gp4": "video/3gpp", b"3gp5": "video/3gpp",
}  # fmt: skip
_OFFICE = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".odt": "application/vnd.oasis.opendocument.text", ".epub": "application/epub+zip", ".jar": "application/java-archive",
}  # fmt: skip
_TEXTS = {
    ".md": "text/markdown", ".markdown": "text/markdown", ".csv": "text/csv", ".tsv": "text/tab-separated-values",
    ".json": "application/json", ".geojson": "application/geo+json", ".jsonl": "application/x-ndjson", ".xml": "application/xml",
    ".html": "text/html", ".htm": "text/html", ".xhtml": "text/html", ".rst": "text/x-rst", ".py": "text/x-python",
    ".yaml": "application/yaml", ".yml": "application/yaml", ".toml": "application/toml", ".tex": "text/x-tex",
    ".eml": "message/rfc822",
}  # fmt: skip
_HTML = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_SVG = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!DOCTYPE svg[^>]*>\s*)?<svg\b", re.DOTALL)


def media_type(head: bytes, ending: str = "") -> str:
    """The media type (RFC 6838) of a file that begins so and whose name ends so; application/octet-stream for what is unknown."""
    for magic, kind in _MAGIC:
        if head.startswith(magic) and (magic != b"BM" or _is_bitmap(head)):
            if kind == "application/zip":
                return _OFFICE.get(ending, kind)
            if kind == "video/x-matroska" and b"webm" in head[:64]:
                return "video/webm"
            return kind
    if head[:4] == b"RIFF" and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return "audio/aiff"
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and len(head) >= 12:
        return _BRANDS.get(head[8:12], "video/mp4") if head[4:8] == b"ftyp" else "video/quicktime"
    if head[:4] == b"OggS":
        return "audio/opus" if b"OpusHead" in head[:64] else "video/ogg" if b"theora" in head[:64] else "audio/ogg"
    if len(head) > 3 and head[0] == 0xFF and 0xE0 <= head[1] != 0xFE and _is_mpeg_audio(head):
        return "audio/aac" if head[1] & 0xF6 == 0xF0 else "audio/mpeg"
    if not is_text(head):
        return "application/octet-stream"
    if _SVG.match(head):
        return "image/svg+xml"
    if _HTML.match(head):
        return "text/html"
    if head.lstrip().startswith(b"<?xml"):
        return "application/xml"
    return _TEXTS.get(ending, "text/plain")


def is_text(head: bytes) -> bool:
    """Whether bytes look like text: with a byte-order mark, or with hardly any control characters."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        return True
    controls = sum(head.count(c) for c in range(32) if c not in (9, 10, 12, 13, 27))
    return b"\0" not in head and controls <= len(head) // 50


def _is_bitmap(head: bytes) -> bool:
    return len(head) >= 26 and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)


def _is_mpeg_audio(head: bytes) -> bool:
    if head[1] & 0xF6 == 0xF0:  # ADTS: no layer, a sampling frequency that exists
        return (head[2] >> 2) & 0xF < 13
    return head[1] & 0x06 != 0 and head[1] & 0x18 != 0x08 and head[2] >> 4 not in (0, 15) and (head[2] >> 2) & 3 != 3
