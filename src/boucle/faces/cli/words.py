"""Numbers as people read them. Imports nothing, for the commands that must start at once."""

from __future__ import annotations


def many(number: int, thing: str) -> str:
    """A number of things, in the singular where it is one."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def took(seconds: float) -> str:
    """A span of time, short."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def size(number: float) -> str:
    """Bytes, in the unit that fits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:,.3g} TB"
