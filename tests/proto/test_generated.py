from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from geumgo.proto.v1 import enclave_pb2

ROOT = Path(__file__).resolve().parents[2]


def test_the_stubs_are_those_of_the_proto_file() -> None:
    pytest.importorskip("grpc_tools")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate-proto"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_packages_that_we_ask_for_are_new_enough_for_the_stubs() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["server"]
    least = dict(item.split(">=") for item in extra)
    stubs = ROOT / "src" / "geumgo" / "proto" / "v1"
    grpcio = re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", (stubs / "enclave_pb2_grpc.py").read_text())
    protobuf = re.search(r"Protobuf Python Version: (\S+)", (stubs / "enclave_pb2.py").read_text())
    assert grpcio is not None
    assert protobuf is not None
    assert (least["grpcio"], least["protobuf"]) == (grpcio[1], protobuf[1])


def test_other_languages_see_the_usual_names() -> None:
    assert enclave_pb2.DESCRIPTOR.name == "geumgo/v1/enclave.proto"
    assert enclave_pb2.DESCRIPTOR.package == "geumgo.v1"


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        ("CallRequest", {"operation": 1, "body": 2, "sealed": 3}),
        ("CallResponse", {"body": 1}),
        ("AttestRequest", {"nonce": 1, "use": 2}),
        ("AttestResponse", {"kind": 1, "document": 2, "statement": 3}),
        ("Problem", {"code": 1, "retryable": 2, "title": 3, "detail": 4, "retry_after_ms": 5}),
    ],
)
def test_field_numbers_never_change(message: str, fields: dict[str, int]) -> None:
    descriptor = enclave_pb2.DESCRIPTOR.message_types_by_name[message]
    assert {field.name: field.number for field in descriptor.fields} == fields


def test_methods_never_change() -> None:
    service = enclave_pb2.DESCRIPTOR.services_by_name["Enclave"]
    shape = {
        m.name: (m.input_type.name, m.output_type.name, m.client_streaming, m.server_streaming)
        for m in service.methods
    }
    assert shape == {
        "Call": ("CallRequest", "CallResponse", False, False),
        "Stream": ("CallRequest", "CallResponse", True, True),
        "Attest": ("AttestRequest", "AttestResponse", False, False),
    }
