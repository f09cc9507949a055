"""The OpenAPI document: sound by itself, and true of the service."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from boucle.core.schema import Column, Schema
from boucle.ops.serve.app import ROUTES
from boucle.ops.serve.errors import STATUS


@pytest.fixture
def service(serve):
    return serve()


@pytest.fixture
def document(service) -> dict[str, Any]:
    return service.ask("GET", "/openapi.json").json()


def walk(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_has_the_shape_of_openapi_3_1(document):
    assert document["openapi"].startswith("3.1.")
    assert {"title", "version"} <= set(document["info"])
    ids = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(ids) == len(set(ids))
    for path, method, operation in operations(document):
        assert path.startswith("/")
        assert operation["responses"]
        for code, response in operation["responses"].items():
            assert len(code) == 3
            assert response["description"], (path, method, code)
            for content in response["content"].values():
                Draft202012Validator.check_schema(content["schema"])
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert name.isidentifier()
    for part in walk(document):
        if "$ref" in part:
            kind, name = part["$ref"].removeprefix("#/components/").split("/")
            assert name in document["components"][kind]


def test_names_every_route_and_every_error(document):
    described = {(path, method.upper()) for path, method, _ in operations(document)}
    assert described == {(path, methods[0]) for path, methods in ROUTES.items() if path != "/"}
    codes = {int(code) for code in document["paths"]["/predict"]["post"]["responses"]} - {200}
    # Of the table, a prediction never meets a wrong path or method, and nothing here can conflict or be forbidden.
    assert codes == set(STATUS.values()) - {401, 403, 404, 405, 406, 409}


def test_the_examples_work_and_the_answers_are_as_described(service, document):
    predict = document["paths"]["/predict"]["post"]
    body, answer = predict["requestBody"]["content"]["application/json"], predict["responses"]["200"]["content"]
    for example in body["examples"].values():
        validator(document, body["schema"]).validate(example["value"])
        response = service.ask("POST", "/predict", json=example["value"])
        assert response.status_code == 200
        validator(document, answer["application/json"]["schema"]).validate(response.json())
    given = document["components"]["schemas"]
    validator(document, given["Row"]).validate(given["Row"]["examples"][0])
    validator(document, given["Prediction"]).validate(given["Prediction"]["examples"][0])


@pytest.mark.parametrize("body", [{"tenure": "x"}, {}, [], {"rows": [{"tenure": 1}]}, [{"tenure": 1, "other": 2}], 3])
def test_schema_and_service_agree_on_what_fits(service, document, body):
    schema = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    response = service.ask("POST", "/predict", json=body)
    assert (response.status_code == 200) == validator(document, schema).is_valid(body)
    if response.status_code != 200:
        validator(document, document["components"]["schemas"]["Error"]).validate(response.json())


def test_gets_answer_as_described(service, document):
    for path, method, operation in operations(document):
        if method == "get":
            response = service.ask("GET", path)
            (media, content), *_ = operation["responses"][str(response.status_code)]["content"].items()
            assert response.headers["content-type"].startswith(media)
            if media == "application/json":
                validator(document, content["schema"]).validate(response.json())


def test_a_column_named_rows_leaves_no_doubt(serve, make_bundle):
    bundle = make_bundle(input=Schema((Column("rows", "int64"),)), sample=[{"rows": 1}])
    document = serve(bundle=bundle).ask("GET", "/openapi.json").json()
    schema = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"$ref": "#/components/schemas/Rows"} not in schema["oneOf"]
    assert validator(document, schema).is_valid({"rows": 3})
