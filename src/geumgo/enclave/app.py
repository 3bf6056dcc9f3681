"""Operations by decorator: what an application developer writes."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from geumgo.enclave._errors import ConfigurationError, Refused
from geumgo.enclave.context import Context

__all__ = ("Enclave", "Operation")

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}", re.ASCII)
_Function = TypeVar("_Function", bound=Callable[..., Any])
_BYTES: tuple[Any, ...] = (bytes, None, type(None))


@dataclass(frozen=True, slots=True)
class Operation:
    """A named function that runs inside the enclave.

    Attributes:
        name: lower-case letters, digits, `_`, `-`; at most 48.
        function: takes the request, and a :class:`Context` where it asks for one.
        request: type of the body: `bytes` and `str` (UTF-8) as they are, anything else JSON by msgspec;
            None where the function takes no request.
        response: type of the answer, likewise; None for an empty answer.
        open: whether callers that the configuration doesn't list may use it, unsealed.
        idempotent: whether carrying out the same request twice is as good as once.
        asynchronous: whether it is a coroutine function; others run in a worker thread when large.
    """

    name: str
    function: Callable[..., Any]
    request: Any
    response: Any
    open: bool
    idempotent: bool
    asynchronous: bool
    _arguments: tuple[bool, bool]  # takes a request, takes a context
    _decode: Callable[[bytes], Any] = field(repr=False)
    _encode: Callable[[Any], bytes] = field(repr=False)

    @property
    def plain(self) -> bool:
        """Whether the body is taken as it is: bytes, text or nothing, no JSON that grows when it is parsed."""
        return self.request is str or self.request in _BYTES

    def decode(self, body: bytes) -> Any:
        """Return the request that `body` holds.

        Raises:
            Refused: `invalid_request`; the detail names the place in the body, for inside the seal.
        """
        try:
            return self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # ValidationError's text names types and a path; the other two may quote bytes.
            detail = str(error) if isinstance(error, msgspec.ValidationError) else type(error).__name__
            raise Refused("invalid_request", detail) from None

    def encode(self, response: Any) -> bytes:
        """Return the answer's bytes."""
        return self._encode(response)

    def call(self, request: Any, context: Context) -> Any:
        """Call the function; the result is awaitable where it is asynchronous."""
        takes_request, takes_context = self._arguments
        if takes_request:
            return self.function(request, context) if takes_context else self.function(request)
        return self.function(context) if takes_context else self.function()

    def schema(self) -> dict[str, Any]:
        """Return JSON Schemas of request and response; `None` stands for raw bytes or nothing."""
        return {
            "open": self.open,
            "idempotent": self.idempotent,
            "request": None if self.request in _BYTES else msgspec.json.schema(self.request),
            "response": None if self.response in _BYTES else msgspec.json.schema(self.response),
        }


class Enclave:
    """The operations of one enclave program.

    Example::

        app = Enclave()

        @app.operation("hello", open=True, idempotent=True)
        def hello(request: Hello) -> Greeting: ...
    """

    def __init__(self) -> None:
        self._operations: dict[str, Operation] = {}

    def operation(
        self, name: str, *, open: bool = False, idempotent: bool = False
    ) -> Callable[[_Function], _Function]:
        """Declare a function as the operation `name`. The function itself stays as it is.

        Args:
            name: lower-case letters, digits, `_`, `-`; at most 48.
            open: everyone may call it unsealed; it then has no keys (the context refuses). The measured
                configuration has to say so too.
            idempotent: the same request may be carried out twice; needed in every pool of more than one.

        Raises:
            ConfigurationError: the name is taken or malformed, or the types can't be used.
        """

        def declare(function: _Function) -> _Function:
            if not _NAME.fullmatch(name):
                raise ConfigurationError(
                    f"{name!r} can't name an operation",
                    fix="Use lower-case letters, digits, '_' and '-', at most 48.",
                )
            if name in self._operations:
                raise ConfigurationError(f"operation {name!r} is declared twice")
            self._operations[name] = _make(name, function, open=open, idempotent=idempotent)
            return function

        return declare

    def include(self, other: Enclave) -> None:
        """Add the operations of another program.

        Raises:
            ConfigurationError: both declare the same name.
        """
        for name, operation in other._operations.items():
            if self._operations.setdefault(name, operation) is not operation:
                raise ConfigurationError(f"operation {name!r} is declared twice")

    @property
    def operations(self) -> Mapping[str, Operation]:
        """The operations by name."""
        return dict(self._operations)

    def schemas(self) -> dict[str, Any]:
        """Return what each operation takes and gives, as JSON Schemas."""
        return {name: operation.schema() for name, operation in sorted(self._operations.items())}


def _make(name: str, function: Callable[..., Any], *, open: bool, idempotent: bool) -> Operation:
    try:
        hints = typing.get_type_hints(function)
        parameters = list(inspect.signature(function).parameters.values())
    except (NameError, TypeError, ValueError) as error:
        raise ConfigurationError(f"the annotations of operation {name!r} can't be read: {error}") from None
    requests = [p for p in parameters if hints.get(p.name) is not Context]
    contexts = [p for p in parameters if hints.get(p.name) is Context]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if (
        len(requests) > 1
        or len(contexts) > 1
        or parameters != requests + contexts
        or any(p.kind not in positional for p in parameters)
        or any(p.name not in hints for p in parameters)
        or "return" not in hints
    ):
        raise ConfigurationError(
            f"operation {name!r} has another shape than operations have",
            fix="Write `def f(request: T) -> R` or `def f(request: T, context: Context) -> R`, all annotated.",
        )
    request = hints[requests[0].name] if requests else None
    try:
        decode, encode = _decoder(request), _encoder(hints["return"])
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the types of operation {name!r} can't be used: {error}") from None
    return Operation(
        name=name,
        function=function,
        request=request,
        response=hints["return"],
        open=open,
        idempotent=idempotent,
        asynchronous=inspect.iscoroutinefunction(function),
        _arguments=(bool(requests), bool(contexts)),
        _decode=decode,
        _encode=encode,
    )


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    if kind is None:
        return _nothing
    if kind is bytes:
        return bytes
    if kind is str:
        return lambda body: str(body, "utf-8")
    return msgspec.json.Decoder(kind).decode


def _nothing(body: bytes) -> None:
    if body:
        raise Refused("invalid_request", "this operation takes an empty body")


def _encoder(kind: Any) -> Callable[[Any], bytes]:
    if kind is type(None):
        return lambda _: b""
    if kind is bytes:
        return bytes
    if kind is str:
        return str.encode
    return msgspec.json.Encoder().encode
