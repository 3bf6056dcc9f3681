"""The specification and the OpenAPI document say what the edges do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from geumgo._base import CODES
from geumgo.api import USES, ApiError, Problem
from geumgo.api._http_routes import _OPERATIONS, _PAGES, OPERATION_NAME

SPEC = Path(__file__).resolve().parents[2] / "docs" / "spec"


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    document = yaml.safe_load((SPEC / "openapi.yaml").read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def test_the_table_of_codes_is_the_codes() -> None:
    text = (SPEC / "enclave-api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\w+) \| (yes|no) \| (.+) \|$", text, re.MULTILINE)
    assert {name: tuple(rest) for name, *rest in rows} == {
        code.name: (str(code.http), code.grpc, "yes" if code.retryable else "no", code.title)
        for code in CODES.values()
    }


def test_openapi_has_every_page_and_no_other(openapi: dict[str, Any]) -> None:
    methods = {path: sorted(operations) for path, operations in openapi["paths"].items()}
    assert methods == {**{page: ["get"] for page in _PAGES}, _OPERATIONS + "{name}": ["post"]}


def test_openapi_names_every_code(openapi: dict[str, Any]) -> None:
    assert openapi["components"]["schemas"]["Problem"]["properties"]["code"]["examples"] == list(CODES)


def test_openapi_has_the_same_patterns(openapi: dict[str, Any]) -> None:
    name = openapi["paths"]["/v1/operations/{name}"]["post"]["parameters"][0]
    assert name["schema"]["pattern"] == f"^{OPERATION_NAME.pattern}$"
    _, use, _ = openapi["paths"]["/v1/attestation"]["get"]["parameters"]
    assert tuple(use["schema"]["enum"]) == USES


def test_a_problem_has_the_members_of_its_schema(openapi: dict[str, Any]) -> None:
    schema = openapi["components"]["schemas"]["Problem"]
    document = json.loads(Problem.of(ApiError("x", code="busy")).to_json())
    assert set(document) == set(schema["properties"])
    assert set(schema["required"]) == set(document) - {"detail"}


def test_every_reference_leads_somewhere(openapi: dict[str, Any]) -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                target: Any = openapi
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(openapi)


async def test_openapi_describes_what_a_server_answers(openapi: dict[str, Any], stack: Any) -> None:
    await stack.serve()
    client = await stack.client()
    for path, operations in openapi["paths"].items():
        if "get" not in operations:
            continue
        client.get(path + ("?nonce=" + "00" * 16 if path == "/v1/attestation" else ""))
        answer = await client.answer()
        described = operations["get"]["responses"]["200"]["content"]
        assert answer.headers["content-type"].partition(";")[0] in described
        schema = next(iter(described.values()))["schema"]
        if path == "/v1/attestation":
            required = openapi["components"]["schemas"]["Evidence"]["required"]
            assert set(required) == set(json.loads(answer.body))
        elif "properties" in schema:
            assert set(schema["properties"]) == set(json.loads(answer.body))


def test_evidence_is_the_json_of_the_attestation_room() -> None:
    from geumgo.api import Attested
    from geumgo.attestation import Evidence

    for statement in (b"statement", None):
        evidence = Evidence.from_json(Attested("nitro", b"document", statement).to_json())
        assert (evidence.kind, evidence.document, evidence.statement) == ("nitro", b"document", statement)
