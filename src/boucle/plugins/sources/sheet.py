"""The program that reads spreadsheets: parses one with limited memory and writes what is in it to its output.

It imports nothing of the package. Each piece is its length in 8 bytes and Python's own form of plain values; what is wrong
stands behind `error:` in the last line that it says.

    python sheet.py PATH MEMORY sheets          # [name, visible, whether it has cells] of each
    python sheet.py PATH MEMORY rows NAME       # (number of the first row, rows), in pieces
"""

from __future__ import annotations

import datetime as dt
import marshal
import struct
import sys
from typing import Any

from python_calamine import CalamineWorkbook, SheetVisibleEnum

_CELLS = 1 << 17  # cells of a piece


def limit(memory: int) -> None:
    """Let this process have no more memory than that, where the system can see to it."""
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def put(value: Any) -> None:
    """Write one piece."""
    data = marshal.dumps(value)
    sys.stdout.buffer.write(struct.pack("<q", len(data)) + data)


def plain(value: Any) -> Any:
    """A cell as something that can be written."""
    kind = type(value)
    if kind is dt.datetime or kind is dt.date or kind is dt.time:
        return (kind.__name__, value.isoformat())
    if kind is dt.timedelta:
        return ("duration", value.total_seconds())
    return value


def main(path: str, what: str, name: str = "") -> None:
    """Do what was asked."""
    with CalamineWorkbook.from_path(path) as book:
        if what == "sheets":
            out = []
            for about in book.sheets_metadata:
                if str(about.typ).rpartition(".")[2] not in ("WorkSheet", "DialogSheet", "MacroSheet"):
                    continue
                sheet = book.get_sheet_by_name(about.name)
                out.append([about.name, about.visible == SheetVisibleEnum.Visible, sheet.height > 0])
            put(out)
            return
        sheet = book.get_sheet_by_name(name)
        first = 1
        held: list[Any] = []
        for row in sheet.iter_rows():
            held.append([plain(v) for v in row])
            if len(held) * len(row) >= _CELLS:
                put((first, held))
                first, held = first + len(held), []
        if held:
            put((first, held))


if __name__ == "__main__":
    limit(int(sys.argv[2]))
    try:
        main(sys.argv[1], *sys.argv[3:])
        sys.stdout.buffer.flush()
    except MemoryError:
        sys.exit("error: it needs more memory than it may have")
    except BaseException as error:  # noqa: BLE001  the parser's own panics are no Exceptions; the other side tells the user
        sys.exit(f"error: {' '.join(str(error).split()) or type(error).__name__}")
