"""The emulator's HTTP surface: AWS JSON 1.1 over one URL (Starlette)."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import traceback
import uuid
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from geumgo._base import Clock, SystemClock
from geumgo.attestation import TrustRoots
from geumgo.testing.kms._errors import ServiceError
from geumgo.testing.kms._files import check_private
from geumgo.testing.kms._identities import load_identities
from geumgo.testing.kms._service import KmsService
from geumgo.testing.kms._signature import Identity, verify_signature
from geumgo.testing.kms._store import StateError, Store

__all__ = ("ACCOUNT", "REGION", "StateError", "create_app", "read_audit")

ACCOUNT = "111122223333"
"""The one account, a number that AWS's documentation uses."""

REGION = "ap-northeast-2"
"""The one region unless told otherwise: Seoul."""

MAX_BODY = 512 << 10
"""Bytes of a request: the largest, a document of 256 KiB in base64, fits."""

_CONTENT_TYPE = "application/x-amz-json-1.1"
_TARGET = "TrentService."
_DATABASE = "kms.sqlite3"
_log = logging.getLogger(__name__)


class _Emulator:
    """One ASGI endpoint: check the signature, call the service, answer in AWS's form."""

    def __init__(
        self, service: KmsService, identities: Mapping[str, Identity], *, region: str, clock: Clock
    ) -> None:
        self._service = service
        self._identities = identities
        self._region = region
        self._clock = clock

    async def handle(self, request: Request) -> Response:
        try:
            return _response(200, await self._answer(request))
        except ServiceError as error:
            refusal = error
        except ClientDisconnect:
            raise
        except Exception as error:
            # Where, not what: an exception's text may quote what it was working on.
            frames = "".join(traceback.format_tb(error.__traceback__))
            _log.error("%s in the KMS emulator:\n%s", type(error).__name__, frames)
            refusal = ServiceError("KMSInternalException", "The emulator failed.", status=500)
        return _response(refusal.status, {"__type": refusal.kind, "message": refusal.message}, refusal.kind)

    async def _answer(self, request: Request) -> Mapping[str, object]:
        body = await _read_body(request)
        principal = verify_signature(
            _headers(request),
            body,
            method=request.method,
            path=request.url.path,
            query=request.url.query,
            identities=self._identities,
            region=self._region,
            now_ms=self._clock.now_ms(),
        )
        target = request.headers.get("x-amz-target", "")
        if not target.startswith(_TARGET) or request.headers.get("content-type") != _CONTENT_TYPE:
            raise ServiceError(
                "UnknownOperationException", "Send AWS JSON 1.1 with X-Amz-Target: TrentService.*"
            )
        return self._service.handle(target.removeprefix(_TARGET), body, principal)


def create_app(
    state_dir: Path,
    *,
    roots: TrustRoots,
    clock: Clock | None = None,
    account: str = ACCOUNT,
    region: str = REGION,
) -> Starlette:
    """Return the emulator as an ASGI application.

    Args:
        state_dir: folder for the database and the credentials; made with mode 0700 where it is not there.
        roots: who may issue recipients' attestation documents. There is no default: a root is trusted when
            somebody passes it in.
        clock: the time; the system's by default.
        account: number of the one account.
        region: name of the one region; both are fixed by a folder's first use.

    Returns:
        The application; ``app.state.close()`` releases the folder.

    Raises:
        StateError: the folder is in use by another emulator or was made for another account or region.
        FolderError: others could change what lies in the folder.
    """
    clock = clock or SystemClock()
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(state_dir)
    resources = ExitStack()
    with ExitStack() as undo:
        undo.callback(resources.close)
        resources.callback(os.close, _lock(state_dir))
        store = Store(state_dir / _DATABASE)
        resources.callback(store.close)
        for name, value in (("account", account), ("region", region)):
            if (stored := store.meta(name, value)) != value:
                raise StateError(
                    f"this state folder belongs to {name} {stored}, not {value}",
                    fix="Use another folder, or start with the same account and region.",
                )
        identities = load_identities(state_dir, account)
        undo.pop_all()
    service = KmsService(store, roots=roots, clock=clock, account=account, region=region)
    emulator = _Emulator(service, identities, region=region, clock=clock)
    app = Starlette(
        routes=[
            Route("/", emulator.handle, methods=["POST"]),
            Route("/livez", _livez, methods=["GET"]),
        ]
    )
    app.state.close = resources.close
    return app


def read_audit(state_dir: Path) -> list[dict[str, object]]:
    """Return the records of an emulator's state folder in CloudTrail's form, oldest first; it may be running.

    Raises:
        StateError: the folder holds none.
    """
    path = state_dir / _DATABASE
    if not path.exists():
        raise StateError("this folder holds no emulator's state", fix="Give the folder of `--state`.")
    store = Store(path)
    try:
        return store.events()
    finally:
        store.close()


async def _livez(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _read_body(request: Request) -> bytes:
    chunks, total = [], 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > MAX_BODY:
            raise ServiceError("RequestEntityTooLargeException", "The request is too large", status=413)
        chunks.append(chunk)
    return b"".join(chunks)


def _headers(request: Request) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        if name in headers:
            raise ServiceError("InvalidSignatureException", f"The header {name[:80]!r} appears twice")
        headers[name] = value
    return headers


def _response(status: int, content: Mapping[str, object], kind: str | None = None) -> Response:
    headers = {"x-amzn-requestid": str(uuid.uuid4())}
    if kind is not None:
        headers["x-amzn-errortype"] = kind
    body = json.dumps(content, separators=(",", ":")).encode() if content else b""
    return Response(body, status, headers, media_type=_CONTENT_TYPE)


def _lock(state_dir: Path) -> int:
    """Hold the folder's lock until the process ends, so that no two emulators answer from it."""
    descriptor = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StateError(
            "another emulator uses this state folder", fix="Stop it, or give this one a folder of its own."
        ) from None
    return descriptor
