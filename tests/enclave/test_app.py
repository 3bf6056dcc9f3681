"""Operations by decorator: shapes, types, schemas, the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated

import msgspec
import pytest

from geumgo.enclave import ConfigurationError, Context, Enclave, Refused
from geumgo.enclave.program import load_apps


class Ask(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    times: Annotated[int, msgspec.Meta(ge=1, le=3)] = 1


class Told(msgspec.Struct):
    text: str


def make() -> Enclave:
    app = Enclave()

    @app.operation("hello", open=True, idempotent=True)
    def hello(request: Ask) -> Told:
        return Told(f"Hello, {request.name}" * request.times)

    @app.operation("raw")
    async def raw(context: Context) -> bytes:
        return b""

    return app


def test_the_function_stays_as_it_was():
    app = Enclave()

    @app.operation("double", idempotent=True)
    def double(request: int) -> int:
        return 2 * request

    assert double(4) == 8
    operation = app.operations["double"]
    assert (operation.open, operation.idempotent, operation.asynchronous) == (False, True, False)


def test_bodies_are_json_of_the_annotated_types():
    operation = make().operations["hello"]
    assert operation.decode(b'{"name":"x"}') == Ask("x")
    assert operation.encode(Told("t")) == b'{"text":"t"}'
    for bad in (
        b"",
        b"{}",
        b'{"name":1}',
        b'{"name":"x","more":1}',
        b'{"name":"x","times":4}',
        b"\xff",
        b"[" * 99_999,
    ):
        with pytest.raises(Refused) as caught:
            operation.decode(bad)
        assert caught.value.code == "invalid_request"
        assert "\\x" not in caught.value.what


def test_schemas_are_visible():
    schemas = make().schemas()
    assert schemas["hello"]["open"] is True
    assert schemas["hello"]["request"]["$defs"]["Ask"]["required"] == ["name"]
    assert schemas["raw"] == {"open": False, "idempotent": False, "request": None, "response": None}


@pytest.mark.parametrize("name", ["", "Hello", "a b", "x" * 49, "-a", "가", "a/b", "a.b"])
def test_names(name):
    with pytest.raises(ConfigurationError):
        Enclave().operation(name)(lambda request: request)


def shapes():
    def unannotated(request):
        return request

    def no_return(request: bytes):
        return request

    def two(request: bytes, other: bytes) -> bytes:
        return request

    def context_first(context: Context, request: bytes) -> bytes:
        return request

    def keyword(*, request: bytes) -> bytes:
        return request

    def variable(*request: bytes) -> bytes:
        return b""

    def unusable(request: object()) -> bytes:  # type: ignore[valid-type]
        return b""

    unusable.__annotations__["request"] = object()
    return [unannotated, no_return, two, context_first, keyword, variable, unusable]


@pytest.mark.parametrize("function", shapes(), ids=lambda function: function.__name__)
def test_other_shapes_are_refused_when_declared(function):
    with pytest.raises(ConfigurationError):
        Enclave().operation("x")(function)


def test_a_name_is_taken_once():
    app = make()
    with pytest.raises(ConfigurationError, match="twice"):
        app.operation("hello")(lambda: None)
    other = Enclave()
    other.operation("hello")(app.operations["hello"].function)
    with pytest.raises(ConfigurationError, match="twice"):
        app.include(other)
    app.include(app)  # the same operation again changes nothing


@pytest.mark.parametrize(
    "name", ["nonesuch.module:app", "json", "json:", ":app", "json:dumps", "json:nothing"]
)
def test_programs_that_are_not_there(name):
    with pytest.raises(ConfigurationError) as caught:
        load_apps([name])
    assert caught.value.code == "program_missing"


def test_built_in_operations_are_the_default():
    assert set(load_apps([]).operations) == {"deidentify", "reidentify", "decrypt", "echo"}


def test_schemas_on_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "geumgo.enclave", "--schemas"], capture_output=True, text=True, check=True
    )
    assert set(json.loads(done.stdout)) == {"deidentify", "reidentify", "decrypt", "echo"}


def test_the_program_imports_nothing_that_an_enclave_must_not_have():
    code = (
        "import sys, geumgo.enclave.program, geumgo.enclave.operations, geumgo.deid\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(done.stdout))
    forbidden = {"grpc", "httpx", "httpx2", "httpcore", "starlette", "fastapi", "uvicorn", "pydantic"}
    assert not loaded & (forbidden | {"structlog", "yaml", "uvloop", "requests", "boto3", "botocore"})
