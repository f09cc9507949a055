"""A model card's Markdown as HTML: headings, paragraphs, lists, tables, code, quotes, emphasis, links.

Everything is escaped before anything is marked up, and links lead to http, https or mailto only, so that no card can
bring its own script into the page.
"""

from __future__ import annotations

import functools
import html
import re
from collections.abc import Callable

_FENCE = re.compile(r"(```|~~~)")
_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*$")
_RULE = re.compile(r"([-*_])(\s*\1){2,}$")
_BULLET = re.compile(r"[-*+]\s+(.*)$")
_NUMBER = re.compile(r"\d{1,9}[.)]\s+(.*)$")
_DIVIDER = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?$")
_CODE = re.compile(r"`([^`]+)`")
_LINK = re.compile(r"\[([^\[\]]+)\]\(((?:https?://|mailto:)[^\s()<>]+)\)")
_STRONG = re.compile(r"\*\*(\S(?:[^*]*\S)?)\*\*")
_EMPHASIS = re.compile(r"(?<![\w*])[*_](\S(?:[^*_]*\S)?)[*_](?![\w*])")


def to_html(markdown: str, level: int = 2) -> str:
    """The card as HTML blocks; its top heading becomes `<h{level}>`."""
    lines = markdown.replace("\r\n", "\n").replace("\0", "").split("\n")
    out: list[str] = []
    i = 0
    while i < len(lines):
        line = lines[i].strip()
        if not line:
            i += 1
        elif fence := _FENCE.match(line):
            end = next((j for j in range(i + 1, len(lines)) if lines[j].strip().startswith(fence[1])), len(lines))
            out.append(f"<pre><code>{html.escape(chr(10).join(lines[i + 1 : end]))}</code></pre>")
            i = end + 1
        elif heading := _HEADING.match(line):
            depth = min(len(heading[1]) + level - 1, 6)
            out.append(f"<h{depth}>{_inline(heading[2])}</h{depth}>")
            i += 1
        elif _RULE.match(line):
            out.append("<hr>")
            i += 1
        elif "|" in line and i + 1 < len(lines) and "-" in lines[i + 1] and _DIVIDER.match(lines[i + 1].strip()):
            end = _while(lines, i + 2, lambda text: "|" in text)
            out.append(_table(lines[i], lines[i + 2 : end]))
            i = end
        elif line.startswith(">"):
            end = _while(lines, i, lambda text: text.startswith(">"))
            quoted = " ".join(text.strip().lstrip("> ") for text in lines[i:end])
            out.append(f"<blockquote><p>{_inline(quoted)}</p></blockquote>")
            i = end
        elif _BULLET.match(line) or _NUMBER.match(line):
            tag, item = ("ul", _BULLET) if _BULLET.match(line) else ("ol", _NUMBER)
            end = _while(lines, i, functools.partial(_stays_in_list, item))
            out.append(_list(tag, item, lines[i:end]))
            i = end
        else:
            end = _while(lines, i + 1, lambda text: bool(text) and not _starts_block(text))
            out.append(f"<p>{_inline(' '.join(text.strip() for text in lines[i:end]))}</p>")
            i = end
    return "\n".join(out)


def _while(lines: list[str], start: int, holds: Callable[[str], bool]) -> int:
    return next((j for j in range(start, len(lines)) if not holds(lines[j].strip())), len(lines))


def _starts_block(text: str) -> bool:
    return any(p.match(text) for p in (_FENCE, _HEADING, _RULE, _BULLET, _NUMBER)) or text.startswith((">", "|"))


def _stays_in_list(item: re.Pattern[str], text: str) -> bool:
    return bool(text) and (bool(item.match(text)) or not _starts_block(text))


def _list(tag: str, item: re.Pattern[str], lines: list[str]) -> str:
    items: list[str] = []
    for line in lines:
        text = line.strip()
        if found := item.match(text):
            items.append(found[1])
        else:
            items[-1] += f" {text}"
    return f"<{tag}>" + "".join(f"<li>{_inline(text)}</li>" for text in items) + f"</{tag}>"


def _table(head: str, body: list[str]) -> str:
    def row(line: str, tag: str) -> str:
        cells = line.strip().strip("|").split("|")
        return "<tr>" + "".join(f"<{tag}>{_inline(cell.strip())}</{tag}>" for cell in cells) + "</tr>"

    rows = "".join(row(line, "td") for line in body)
    return f'<div class="wide"><table><thead>{row(head, "th")}</thead><tbody>{rows}</tbody></table></div>'


def _inline(text: str) -> str:
    # Code spans are taken out first: nothing inside them is markup.
    parts = _CODE.split(text)
    return "".join(f"<code>{html.escape(p)}</code>" if i % 2 else _marked(html.escape(p)) for i, p in enumerate(parts))


def _marked(escaped: str) -> str:
    # And so are links: an underscore in an address is not emphasis.
    parts = _LINK.split(escaped)
    out = []
    for i in range(0, len(parts), 3):
        out.append(_emphasised(parts[i]))
        if i + 2 < len(parts):
            out.append(f'<a href="{parts[i + 2]}" rel="noreferrer">{parts[i + 1]}</a>')
    return "".join(out)


def _emphasised(escaped: str) -> str:
    # Strong first, and emphasis only within what lies between its tags, so that the two never cross.
    pieces = _STRONG.split(escaped)
    inner = [_EMPHASIS.sub(r"<em>\1</em>", piece) for piece in pieces]
    return "".join(f"<strong>{piece}</strong>" if i % 2 else piece for i, piece in enumerate(inner))
