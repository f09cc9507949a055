"""The page of a service: what is served, and a form to try it. One document, nothing fetched from anywhere else."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from boucle.core.schema import Column, Schema, jsonable
from boucle.ops.serve import card

if TYPE_CHECKING:
    from boucle.core.bundle import Bundle

SHOWN_ROWS = 5
SHOWN_CATEGORIES = 8


def render(bundle: Bundle, service: str, revision: int, model: str) -> tuple[str, str]:
    """The document, and the content security policy under which it works: by hash, so that nothing else runs."""
    source = resources.files("boucle.ops.serve")
    style = source.joinpath("page.css").read_text("utf-8")
    script = source.joinpath("page.js").read_text("utf-8")
    inputs, outputs = bundle.input, bundle.output
    sample = [{n: row[n] for n in inputs.names if n in row} for row in bundle.sample[:SHOWN_ROWS]]
    # Inside a script element only "<" could end it, and JSON can always write that as an escape.
    data = json.dumps(jsonable(sample)).replace("<", "\\u003c")
    name, _, version = model.partition("@")
    document = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{_e(model)} · {_e(service)}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<header>
  <div>
    <p class="over">service {_e(service)} · revision {revision}</p>
    <h1>{_e(name)}{f' <span class="version">@{_e(version)}</span>' if version else ""}</h1>
    <p class="facts">{_chips(bundle.task, bundle.framework)}
    <code title="{_e(bundle.digest)}">{_e(bundle.digest[:16])}</code></p>
  </div>
  <nav aria-label="Machine-readable">
    <a href="openapi.json">OpenAPI</a><a href="metadata">Metadata</a><a href="metrics">Metrics</a>
    <a href="health/ready"><span id="light" aria-hidden="true"></span><span id="state">Health</span></a>
  </nav>
</header>
<main>
<section class="try" aria-labelledby="try-heading">
  <div class="ask">
    <h2 id="try-heading">Try it</h2>
    <div class="bar" role="group" aria-label="Examples" id="examples"></div>
    <label for="body" class="hidden">Request body, JSON</label>
    <textarea id="body" spellcheck="false" autocomplete="off"></textarea>
    <div class="bar">
      <button id="send" class="main" type="button">Send <kbd>Ctrl ↵</kbd></button>
      <button id="copy" type="button">Copy as curl</button>
    </div>
  </div>
  <div class="told" aria-live="polite">
    <h2>Answer</h2>
    <p id="status" class="muted">Nothing sent yet.</p>
    <div id="summary"></div>
    <pre id="answer" hidden></pre>
  </div>
</section>
<section aria-labelledby="input-heading">
  <h2 id="input-heading">Input <span class="muted">{len(inputs)} columns</span></h2>
  {_schema_table(inputs, "required")}
</section>
<section aria-labelledby="output-heading">
  <h2 id="output-heading">Output <span class="muted">and an id, by which the prediction is found again</span></h2>
  {_schema_table(outputs, "never")}
</section>
{_section("card", "Model card", card.to_html(bundle.card, level=3)) if bundle.card.strip() else ""}
{_section("origin", "Where it comes from", _references(bundle.references)) if bundle.references else ""}
</main>
<script type="application/json" id="sample">{data}</script>
<script>{script}</script>
</body>
</html>
"""
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return document, policy


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _e(value: object) -> str:
    return html.escape(str(value))


def _chips(*words: str) -> str:
    return "".join(f'<span class="chip">{_e(word)}</span>' for word in words if word)


def _section(id: str, heading: str, inner: str) -> str:
    return (
        f'<section class="{id}" aria-labelledby="{id}-heading"><h2 id="{id}-heading">{heading}</h2>\n{inner}</section>'
    )


def _schema_table(schema: Schema, not_null: str) -> str:
    cells = {
        "Column": [_e(c.name) for c in schema.columns],
        "Type": [f"<code>{_e(c.type)}</code>" for c in schema.columns],
        "Null": ["may be null" if c.nullable else not_null for c in schema.columns],
        "Kind": [_e(c.kind) for c in schema.columns],
        "About": [_meaning(c) for c in schema.columns],
    }
    shown = {heading: column for heading, column in cells.items() if any(column)}
    head = "".join(f'<th scope="col">{heading}</th>' for heading in shown)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in zip(*shown.values(), strict=True)
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _meaning(column: Column) -> str:
    parts = [_e(column.description)] if column.description else []
    if column.categories:
        shown = " ".join(f'<span class="chip">{_e(v)}</span>' for v in column.categories[:SHOWN_CATEGORIES])
        more = len(column.categories) - SHOWN_CATEGORIES
        parts.append(shown + (f" and {more} more" if more > 0 else ""))
    return " ".join(parts)


def _references(references: Mapping[str, Any]) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{_e(key)}</dt><dd>{_reference(value)}</dd>" for key, value in references.items())
        + "</dl>"
    )


def _reference(value: Any) -> str:
    if isinstance(value, dict):
        return "<br>".join(f"{_e(key)}: {_reference(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "<br>".join(map(_reference, value)) or "none"
    return f"<code>{_e(value)}</code>" if value not in (None, "") else "none"
