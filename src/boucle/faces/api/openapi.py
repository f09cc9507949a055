"""What the data API says about itself: OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

MEDIA = {
    "json": "application/json", "jsonl": "application/x-ndjson", "csv": "text/csv; charset=utf-8",
    "tsv": "text/tab-separated-values; charset=utf-8", "parquet": "application/vnd.apache.parquet",
    "arrows": "application/vnd.apache.arrow.stream", "feather": "application/vnd.apache.arrow.file",
    "orc": "application/vnd.apache.orc", "avro": "application/vnd.apache.avro",
}  # fmt: skip

_REF = "name@version: a number, latest, sha and the start of a digest, or a time in braces; without @ it is the latest"


def document(root: str) -> dict[str, Any]:
    """The description, for an application that is mounted at `root`."""
    rows = {
        "columns": ("names, separated by commas; one with a comma in it in quotes", "string"),
        "filter": ("such as: amount > 10 and city in ('Lyon', 'Paris')", "string"),
        "limit": ("at most so many rows; JSON has 1000 unless it is given", "integer"),
        "offset": ("rows to skip, counted behind the filter", "integer"),
        "after": ("go on at this position of the version, as `next` says", "integer"),
        "format": (
            "instead of the header Accept: json, jsonl, csv, tsv, parquet, arrow, feather, orc or avro",
            "string",
        ),
    }
    body: dict[str, Any] = {media.partition(";")[0]: {} for media in MEDIA.values()}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Boucle data", "version": "1", "description": "Dataset versions, read-only."},
        "servers": [{"url": root or "/"}],
        "paths": {
            "/data": _get("the newest version of each dataset"),
            "/data/{ref}": _get("the versions of a dataset, or one version", ref=True),
            "/data/{ref}/schema": _get("its columns, and a row as JSON Schema", ref=True),
            "/data/{ref}/statistics": _get("what is in each column", ref=True),
            "/data/{ref}/rows": _get("rows", ref=True, query=rows, body=body),
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }


def _get(
    what: str,
    *,
    ref: bool = False,
    query: dict[str, tuple[str, str]] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    asked: list[dict[str, Any]] = []
    if ref:
        asked.append({"name": "ref", "in": "path", "required": True, "description": _REF, "schema": {"type": "string"}})
    for name, (said, kind) in (query or {}).items():
        asked.append({"name": name, "in": "query", "description": said, "schema": {"type": kind}})
    failures = {
        "304": "it is still what If-None-Match names", "400": "a parameter that cannot be read", "401": "no token",
        "404": "no such dataset or version", "422": "a filter or column that is wrong", "503": "too many requests",
    }  # fmt: skip
    return {
        "get": {
            "summary": what,
            "parameters": asked,
            "responses": {
                "200": {"description": what, "content": body or {"application/json": {}}},
                **{code: {"description": said} for code, said in failures.items()},
            },
        }
    }
