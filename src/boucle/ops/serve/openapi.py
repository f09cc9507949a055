"""The OpenAPI 3.1 document of a service: https://spec.openapis.org/oas/v3.1.0. Its schemas are the model's own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from boucle.core.schema import Schema
from boucle.ops.serve.labels import MOST
from boucle.ops.serve.rows import CSV, JSON

if TYPE_CHECKING:
    from boucle.core.bundle import Bundle

Json = dict[str, Any]

_ID = "^[0-9A-HJKMNP-TV-Z]{26}$"

_FAILURES = {
    "400": "The body cannot be read.",
    "413": "The body is larger than the service allows.",
    "415": "The type or encoding of the body is not read here.",
    "422": "The rows do not fit the schema; the message names row and column.",
    "500": "The model failed. The id is in the service's log.",
    "503": "The service is starting, stopping or overloaded, or cannot write its prediction log.",
}


def document(bundle: Bundle, model: str, service: str) -> Json:
    """The whole document; every example in it works when it is sent."""
    columns, outputs, golden = bundle.input, bundle.output, bundle.golden
    sample = [{name: row[name] for name in columns.names if name in row} for row in bundle.sample]
    bodies = [_to("Row"), {"type": "array", "items": _to("Row")}]
    if "rows" not in columns:
        bodies.append(_to("Rows"))
    predict = {
        "operationId": "predict",
        "summary": f"Predict with {model}",
        "description": "One row as an object gives one prediction; an array, or an object with the key `rows`, gives "
        "many. Every prediction has an id and is on the service's log before it is answered.",
        "parameters": [
            {
                "name": "X-Request-Id",
                "in": "header",
                "description": "Kept with the predictions; made up when it is missing.",
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
            }
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {"oneOf": bodies},
                    "examples": {
                        "one": {"summary": "One row", "value": sample[0]},
                        "many": {"summary": "Several rows", "value": sample[:3]},
                    },
                },
                CSV: {"schema": {"type": "string", "description": "A header, then one line for each row."}},
            },
        },
        "responses": {
            "200": {
                "description": "One prediction for one row; a list for many.",
                "headers": {"X-Request-Id": {"schema": {"type": "string"}}},
                "content": {JSON: {"schema": {"oneOf": [_to("Answer"), _to("Answers")]}}},
            },
            **{code: _failure(meaning) for code, meaning in _FAILURES.items()},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{service}: {model}",
            "version": model.partition("@")[2] or bundle.digest[:12],
            "description": f"A {bundle.task or 'prediction'} service. Bundle digest {bundle.digest}.",
        },
        "servers": [{"url": "."}],
        "paths": {
            "/predict": {"post": predict},
            "/labels": {"post": _labels()},
            "/metadata": {"get": _get("metadata", "What is served: schemas, digest, references", _object())},
            "/openapi.json": {"get": _get("openapi", "This document", _object())},
            "/health/live": {"get": _get("live", "Whether the process answers", _to("Health"))},
            "/health/ready": {
                "get": _get("ready", "Whether predictions are answered", _to("Health"), failure={"503": "Not now."})
            },
            "/metrics": {
                "get": _get("metrics", "Metrics in the Prometheus text format", {"type": "string"}, "text/plain")
            },
        },
        "components": {
            "schemas": {
                "Row": columns.json_schema(sample[0]),
                "Rows": _members(rows={"type": "array", "items": _to("Row")}) | {"additionalProperties": False},
                "Prediction": _prediction(outputs, golden[0]),
                "Stamp": _members(
                    service={"type": "string"},
                    revision={"type": "integer"},
                    model={"type": "string", "description": "Name and version."},
                    digest={"type": "string", "description": "BLAKE3 over the whole bundle."},
                ),
                "Answer": {"allOf": [_to("Prediction"), _to("Stamp")]},
                "Answers": {
                    "allOf": [_to("Stamp"), _members(predictions={"type": "array", "items": _to("Prediction")})]
                },
                "Label": _members(
                    id={"type": "string", "pattern": _ID, "description": "Of a prediction, by any revision."},
                    label={"type": ["string", "number", "boolean"], "description": "What really happened."},
                )
                | {"additionalProperties": False},
                "Labelled": _members(
                    kept={"type": "integer", "description": "Labels that are on the disk now."},
                    unknown={
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "Ids that were never given here.",
                    },
                ),
                "Health": _members(status={"enum": ["alive", "starting", "ready", "stopping"]}),
                "Error": _members(
                    error=_members(
                        what={"type": "string", "description": "What happened."},
                        expected={"type": "string", "description": "What would have been right."},
                        fix={"type": "string", "description": "What to do."},
                    )
                ),
            }
        },
    }


def _labels() -> Json:
    one, many = _to("Label"), {"type": "array", "items": _to("Label"), "maxItems": MOST}
    members = _members(labels=many) | {"additionalProperties": False}
    said = _FAILURES | {
        "422": "An id or a label makes no sense; nothing is kept.",
        "500": "It failed. The id is in the service's log.",
        "503": "The service is starting, stopping or overloaded, or cannot write the labels.",
    }
    return {
        "operationId": "label",
        "summary": "Say what really happened",
        "description": "By the id of the prediction, at any time, also of a revision that is gone. Of several labels for one "
        "prediction the last counts.",
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {"oneOf": [one, many, members]},
                    "example": [{"id": "01JC0000000000000000000000", "label": 1}],
                }
            },
        },
        "responses": {
            "200": {"description": "They are on the disk.", "content": {JSON: {"schema": _to("Labelled")}}},
            **{code: _failure(meaning) for code, meaning in said.items()},
        },
    }


def _prediction(outputs: Schema, example: Json) -> Json:
    """What is answered for a row. What is not a finite number is answered as null, so every column may be null."""
    properties: Json = {}
    for column in outputs.columns:
        nullable = Schema((replace(column, nullable=True),)).json_schema()
        properties[column.name] = nullable["properties"][column.name]
        if column.type.startswith("struct<"):
            properties[column.name] = {"type": ["object", "null"]}
    id_schema = {"type": "string", "pattern": _ID}
    return _members(id=id_schema, **properties) | {"examples": [{"id": "01JC0000000000000000000000", **example}]}


def _to(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object() -> Json:
    return {"type": "object"}


def _members(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _failure(meaning: str) -> Json:
    return {"description": meaning, "content": {JSON: {"schema": _to("Error")}}}


def _get(id: str, summary: str, schema: Json, media: str = JSON, failure: dict[str, str] | None = None) -> Json:
    answer = {media: {"schema": schema}}
    return {
        "operationId": id,
        "summary": summary,
        "responses": {
            "200": {"description": summary + ".", "content": answer},
            **{code: {"description": meaning, "content": answer} for code, meaning in (failure or {}).items()},
        },
    }
