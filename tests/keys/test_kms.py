"""The KMS client over real TLS on loopback, against a server that answers what a test tells it to."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import hashlib
import ipaddress
import json
import ssl
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from geumgo._base import GeumgoError, SystemClock
from geumgo.keys import Credentials, KmsClient, KmsError, RecipientError, generate_recipient_key, tcp_dial
from geumgo.keys._sigv4 import canonical_request, signature

ARN = "arn:aws:kms:ap-northeast-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER = "arn:aws:kms:ap-northeast-2:111122223333:key/00000000-12ab-34cd-56ef-1234567890ab"
CREDENTIALS = Credentials("AKIDEXAMPLE", "SECRETEXAMPLE", "TOKENEXAMPLE")

Respond = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Certificates:
    """A certificate authority and what it issued, as files."""

    folder: Path
    ca_pem: str = ""
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
        self.ca = self._issue(self._name, self.key, ca=True, names=())
        self.ca_pem = self.ca.public_bytes(Encoding.PEM).decode()

    def _issue(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        ca: bool,
        names: tuple[str, ...],
        days: int = 1,
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=2))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            found: list[x509.GeneralName] = []
            for entry in names:
                try:
                    found.append(x509.IPAddress(ipaddress.ip_address(entry)))
                except ValueError:
                    found.append(x509.DNSName(entry))
            builder = builder.add_extension(x509.SubjectAlternativeName(found), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def server(self, *names: str, days: int = 1) -> ssl.SSLContext:
        """Return a server's context with a certificate for `names`."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        certificate = self._issue(subject, key, ca=False, names=names, days=days)
        path = self.folder / "server.pem"
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


@asynccontextmanager
async def serving(respond: Respond, context: ssl.SSLContext | None) -> AsyncIterator[int]:
    """Serve on loopback; the connections' tasks end with the block."""
    tasks: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await respond(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Request:
    headers: dict[str, str]
    body: Any
    raw: bytes


async def read_request(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.strip().split("\r\n")
    assert first == "POST / HTTP/1.1"
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers["content-length"]))
    return Request(headers, json.loads(body), body)


def answering(
    status: int, body: Any, seen: list[Request] | None = None, *, split: int | None = None
) -> Respond:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await read_request(reader)
        if seen is not None:
            seen.append(request)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = f"HTTP/1.1 {status} x\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data
        for at in range(0, len(answer), split or len(answer)):
            writer.write(answer[at : at + (split or len(answer))])
            await writer.drain()
        await reader.read()

    return respond


def client(port: int, certificates: Certificates, **changes: Any) -> KmsClient:
    async def credentials() -> Credentials:
        return CREDENTIALS

    arguments: dict[str, Any] = {
        "endpoint": f"https://localhost:{port}",
        "region": "ap-northeast-2",
        "ca_pem": certificates.ca_pem,
        "credentials": credentials,
        "dial": tcp_dial,
        "clock": SystemClock(),
    }
    return KmsClient(**{**arguments, **changes})


async def failing(call: Awaitable[object], kind: type[GeumgoError] = KmsError) -> Any:
    with pytest.raises(kind) as caught:
        await call
    return caught.value


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


async def test_decrypt(certificates: Certificates) -> None:
    seen: list[Request] = []
    answer = {"KeyId": ARN, "Plaintext": b64(b"secret"), "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    async with serving(answering(200, answer, seen), certificates.server("localhost")) as port:
        kms = client(port, certificates)
        assert await kms.decrypt(b"blob", key_id=ARN, context={"app": "crm"}) == b"secret"
    (request,) = seen
    assert request.body == {"CiphertextBlob": b64(b"blob"), "KeyId": ARN, "EncryptionContext": {"app": "crm"}}
    assert request.headers["x-amz-target"] == "TrentService.Decrypt"
    assert request.headers["content-type"] == "application/x-amz-json-1.1"
    assert request.headers["host"] == f"localhost:{port}"
    assert request.headers["x-amz-security-token"] == "TOKENEXAMPLE"


async def test_signature_covers_what_is_sent(certificates: Certificates) -> None:
    seen: list[Request] = []
    async with serving(answering(200, {}, seen), certificates.server("localhost")) as port:
        await client(port, certificates).call("ListKeys", {"Limit": 3})
    (request,) = seen
    authorization = request.headers["authorization"]
    scope, names, given = (part.split("=", 1)[1] for part in authorization.split(" ", 1)[1].split(", "))
    canonical = canonical_request(
        "POST", "/", "", request.headers, tuple(names.split(";")), hashlib.sha256(request.raw).hexdigest()
    )
    expected = signature("SECRETEXAMPLE", request.headers["x-amz-date"], scope.split("/", 1)[1], canonical)
    assert given == expected
    assert {"host", "x-amz-date", "x-amz-security-token", "x-amz-target"} <= set(names.split(";"))


@pytest.mark.parametrize("split", [1, 7])
async def test_an_answer_in_small_pieces(certificates: Certificates, split: int) -> None:
    answer = answering(200, {"KeyId": ARN, "Plaintext": b64(b"x" * 50)}, split=split)
    async with serving(answer, certificates.server("localhost")) as port:
        assert await client(port, certificates).decrypt(b"blob", key_id=ARN) == b"x" * 50


async def test_an_answer_of_many_records(certificates: Certificates) -> None:
    policy = "p" * 200_000
    async with serving(answering(200, {"Policy": policy}), certificates.server("localhost")) as port:
        assert await client(port, certificates).get_key_policy(ARN) == policy


async def test_the_other_calls(certificates: Certificates) -> None:
    seen: list[Request] = []
    answer = {
        "KeyId": ARN,
        "Plaintext": b64(b"k" * 32),
        "CiphertextBlob": b64(b"wrapped"),
        "KeyMetadata": {"Arn": ARN, "KeyState": "Enabled"},
        "Policy": "{}",
    }
    async with serving(answering(200, answer, seen), certificates.server("localhost")) as port:
        kms = client(port, certificates)
        assert await kms.generate_data_key(ARN, {"a": "b"}) == (b"k" * 32, b"wrapped")
        assert await kms.generate_data_key_without_plaintext(ARN) == b"wrapped"
        assert await kms.generate_random(32) == b"k" * 32
        assert await kms.encrypt(b"x", key_id=ARN) == b"wrapped"
        assert await kms.create_key("{}", description="d") == ARN
        assert (await kms.describe_key(ARN))["KeyState"] == "Enabled"
        assert await kms.get_key_policy(ARN) == "{}"
        await kms.put_key_policy(ARN, "{}", bypass_lockout_check=True)
        await kms.create_alias("alias/x", ARN)
    assert [request.headers["x-amz-target"].partition(".")[2] for request in seen] == [
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateRandom",
        "Encrypt",
        "CreateKey",
        "DescribeKey",
        "GetKeyPolicy",
        "PutKeyPolicy",
        "CreateAlias",
    ]
    assert seen[4].body["Origin"] == "AWS_KMS"
    assert seen[4].body["MultiRegion"] is False
    assert seen[7].body["BypassPolicyLockoutSafetyCheck"] is True


@pytest.mark.parametrize(
    ("answered", "asked", "fine"),
    [
        pytest.param(ARN, ARN, True, id="the same ARN"),
        pytest.param(ARN, ARN.rpartition("/")[2], True, id="the bare id"),
        pytest.param(OTHER, ARN, False, id="another key"),
        pytest.param(OTHER, ARN.rpartition("/")[2], False, id="another bare id"),
        pytest.param(ARN.rpartition("/")[2], ARN, False, id="less than was asked"),
        pytest.param(ARN.replace("111122223333", "444455556666"), ARN, False, id="another account"),
    ],
)
async def test_key_id_of_the_answer(
    certificates: Certificates, answered: str, asked: str, fine: bool
) -> None:
    answer = {
        "KeyId": answered,
        "Plaintext": b64(b"k" * 32),
        "CiphertextBlob": b64(b"w"),
    }
    async with serving(answering(200, answer), certificates.server("localhost")) as port:
        kms = client(port, certificates)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: kms.decrypt(b"blob", key_id=asked),
            lambda: kms.generate_data_key(asked),
            lambda: kms.generate_data_key_without_plaintext(asked),
            lambda: kms.encrypt(b"x", key_id=asked),
        ]
        for call in calls:
            if fine:
                await call()
            else:
                assert (await failing(call())).code == "kms_key_mismatch"


@pytest.mark.parametrize(
    ("status", "kind", "message", "code", "retryable"),
    [
        (400, "AccessDeniedException", "User: arn is not authorized", "access_denied", False),
        (400, "ThrottlingException", "Rate exceeded", "throttled", True),
        (429, "", "", "throttled", True),
        (400, "LimitExceededException", "", "throttled", True),
        (400, "NotFoundException", "Key 'x' does not exist", "key_not_found", False),
        (400, "DisabledException", "", "key_unusable", False),
        (400, "KMSInvalidStateException", "", "key_unusable", False),
        (400, "KeyUnavailableException", "", "key_unusable", True),
        (400, "InvalidCiphertextException", "", "invalid_ciphertext", False),
        (400, "IncorrectKeyException", "", "invalid_ciphertext", False),
        (400, "UnrecognizedClientException", "The security token is invalid", "credentials_rejected", False),
        (400, "InvalidSignatureException", "does not match", "credentials_rejected", False),
        (400, "InvalidSignatureException", "Signature expired: 1 is now earlier than 2", "clock_skew", False),
        (400, "InvalidSignatureException", "Signature not yet current: 1", "clock_skew", False),
        (400, "ExpiredTokenException", "", "credentials_expired", True),
        (400, "com.amazonaws.kms#ValidationException", "bad", "invalid_kms_request", False),
        (400, "SomethingNewException", "", "invalid_kms_request", False),
        (500, "KMSInternalException", "", "kms_unavailable", True),
        (503, "", "", "kms_unavailable", True),
        (302, "", "", "invalid_kms_request", False),
    ],
)
async def test_errors(
    certificates: Certificates, status: int, kind: str, message: str, code: str, retryable: bool
) -> None:
    answer = {"__type": kind, "message": message} if kind else b"<html>busy</html>"
    async with serving(answering(status, answer), certificates.server("localhost")) as port:
        error = await failing(client(port, certificates).call("Decrypt", {}))
    assert (error.code, error.retryable) == (code, retryable)
    assert error.kind == kind.rpartition("#")[2]
    assert "Decrypt" in str(error)
    assert message in error.diagnostics()


async def test_an_errors_text_is_bounded_and_printable(certificates: Certificates) -> None:
    answer = {"__type": "X" * 500, "Message": "\x1b[2J\n" * 1000}
    async with serving(answering(400, answer), certificates.server("localhost")) as port:
        error = await failing(client(port, certificates).call("Decrypt", {}))
    assert len(error.diagnostics()) < 1000
    assert "\x1b" not in error.diagnostics()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff",
        {"KeyId": 1},
        {"KeyId": ARN},
        {"KeyId": ARN, "Plaintext": "***"},
        b"[" * 9000,
    ],
)
async def test_answers_that_are_not_what_was_asked(certificates: Certificates, body: Any) -> None:
    async with serving(answering(200, body), certificates.server("localhost")) as port:
        error = await failing(client(port, certificates).decrypt(b"blob", key_id=ARN))
    assert error.code == "kms_protocol"


async def test_a_data_key_of_another_length(certificates: Certificates) -> None:
    answer = {"KeyId": ARN, "Plaintext": b64(b"short"), "CiphertextBlob": b64(b"w")}
    async with serving(answering(200, answer), certificates.server("localhost")) as port:
        kms = client(port, certificates)
        for call in (kms.generate_data_key(ARN), kms.generate_random(32)):
            assert (await failing(call)).code == "kms_protocol"


async def test_recipient(certificates: Certificates) -> None:
    from geumgo.testing.kms._recipient import AttestedRecipient, encrypt_to

    key = generate_recipient_key()
    from geumgo.keys import public_key_der

    async def recipient() -> tuple[bytes, Any]:
        return b"document", key

    seen: list[Request] = []
    sealed = encrypt_to(AttestedRecipient(public_key_der(key), key.public_key(), {}), b"k" * 32)
    answer = {"KeyId": ARN, "CiphertextForRecipient": b64(sealed), "CiphertextBlob": b64(b"wrapped")}
    async with serving(answering(200, answer, seen), certificates.server("localhost")) as port:
        kms = client(port, certificates, recipient=recipient)
        assert await kms.decrypt(b"blob", key_id=ARN) == b"k" * 32
        assert await kms.generate_data_key(ARN) == (b"k" * 32, b"wrapped")
        assert await kms.generate_random(32) == b"k" * 32
        await kms.generate_data_key_without_plaintext(ARN)
    expected = {"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256", "AttestationDocument": b64(b"document")}
    assert [request.body.get("Recipient") for request in seen] == [expected] * 3 + [None]


async def test_recipient_refuses_plaintext(certificates: Certificates) -> None:
    """An endpoint that ignores Recipient must not be believed, even though it answers."""

    async def recipient() -> tuple[bytes, Any]:
        return b"document", generate_recipient_key()

    for answer in (
        {"KeyId": ARN, "Plaintext": b64(b"secret")},
        {"KeyId": ARN, "Plaintext": b64(b"secret"), "CiphertextForRecipient": b64(b"x")},
        {"KeyId": ARN},
    ):
        async with serving(answering(200, answer), certificates.server("localhost")) as port:
            error = await failing(
                client(port, certificates, recipient=recipient).decrypt(b"blob", key_id=ARN)
            )
        assert error.code == "kms_protocol"


async def test_recipient_with_a_ciphertext_that_does_not_open(certificates: Certificates) -> None:
    async def recipient() -> tuple[bytes, Any]:
        return b"document", generate_recipient_key()

    answer = {"KeyId": ARN, "Plaintext": "", "CiphertextForRecipient": b64(b"garbage")}
    async with serving(answering(200, answer), certificates.server("localhost")) as port:
        await failing(
            client(port, certificates, recipient=recipient).decrypt(b"blob", key_id=ARN), RecipientError
        )


@pytest.mark.parametrize(
    ("names", "days", "trusted"),
    [
        pytest.param(("example.com",), 1, True, id="another name"),
        pytest.param(("127.0.0.1",), 1, True, id="the address instead of the name"),
        pytest.param((), 1, True, id="no name"),
        pytest.param(("localhost",), -1, True, id="expired"),
        pytest.param(("localhost",), 1, False, id="another CA"),
    ],
)
async def test_certificates_that_are_refused(
    certificates: Certificates, tmp_path: Path, names: tuple[str, ...], days: int, trusted: bool
) -> None:
    seen: list[Request] = []
    other = certificates if trusted else Certificates(tmp_path)
    async with serving(answering(200, {}, seen), certificates.server(*names, days=days)) as port:
        error = await failing(client(port, certificates, ca_pem=other.ca_pem).call("ListKeys", {}))
    assert error.code == "kms_tls"
    assert "not trusted" in str(error)
    assert not error.retryable
    assert seen == [], "nothing is sent to a server that is not trusted"


async def test_without_a_ca_the_systems_are_used(certificates: Certificates) -> None:
    async with serving(answering(200, {}), certificates.server("localhost")) as port:
        for nothing in (None, ""):
            error = await failing(client(port, certificates, ca_pem=nothing).call("ListKeys", {}))
            assert error.code == "kms_tls"


async def test_address_as_endpoint(certificates: Certificates) -> None:
    async with serving(answering(200, {}), certificates.server("127.0.0.1")) as port:
        await client(port, certificates, endpoint=f"https://127.0.0.1:{port}").call("ListKeys", {})


async def test_old_tls_is_refused(certificates: Certificates) -> None:
    context = certificates.server("localhost")
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    async with serving(answering(200, {}), context) as port:
        assert (await failing(client(port, certificates).call("ListKeys", {}))).code == "kms_tls"


async def garbage_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH\r\n")
    await writer.drain()
    await reader.read()


async def closing_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)


async def test_a_server_without_tls(certificates: Certificates) -> None:
    for respond in (garbage_server, closing_server):
        async with serving(respond, None) as port:
            error = await failing(client(port, certificates).call("ListKeys", {}))
            assert error.code in ("kms_tls", "kms_unavailable")
            assert error.retryable


async def test_an_answer_that_is_cut_off(certificates: Certificates) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{}")  # no length: only a proper end of TLS may end it
        await writer.drain()

    async with serving(respond, certificates.server("localhost")) as port:
        error = await failing(client(port, certificates).call("ListKeys", {}))
    assert error.retryable
    assert error.code in ("kms_tls", "kms_unavailable")


async def test_nobody_there(certificates: Certificates, unused_tcp_port: int) -> None:
    error = await failing(client(unused_tcp_port, certificates).call("ListKeys", {}))
    assert (error.code, error.retryable) == ("kms_unavailable", True)


async def test_timeout(certificates: Certificates) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.Event().wait()

    async with serving(silent, certificates.server("localhost")) as port:
        error = await failing(client(port, certificates, timeout=0.2).call("ListKeys", {}))
    assert (error.code, error.retryable) == ("kms_timeout", True)


async def test_cancellation_closes_the_stream(certificates: Certificates) -> None:
    reached, closed = asyncio.Event(), asyncio.Event()

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        reached.set()
        try:
            await reader.read()
        finally:
            closed.set()

    async with serving(respond, certificates.server("localhost")) as port:
        task = asyncio.create_task(client(port, certificates).call("ListKeys", {}))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(closed.wait(), 5)


async def test_expired_credentials_are_not_sent(certificates: Certificates) -> None:
    async def credentials() -> Credentials:
        return Credentials("AKID", "SECRET", None, SystemClock().now_ms() + 5_000)

    seen: list[Request] = []
    async with serving(answering(200, {}, seen), certificates.server("localhost")) as port:
        error = await failing(client(port, certificates, credentials=credentials).call("ListKeys", {}))
    assert (error.code, error.retryable) == ("credentials_expired", True)
    assert seen == []


async def test_a_token_that_would_be_two_headers(certificates: Certificates) -> None:
    """The parent brings the credentials; it may not smuggle headers into the enclave's request."""

    async def credentials() -> Credentials:
        return Credentials("AKID", "SECRET", "token\r\nx-evil: 1")

    seen: list[Request] = []
    async with serving(answering(200, {}, seen), certificates.server("localhost")) as port:
        error = await failing(client(port, certificates, credentials=credentials).call("ListKeys", {}))
    assert error.code == "invalid_kms_request"
    assert seen == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "http://localhost",
        "https://",
        "https://a/b",
        "https://u@h",
        "https://h:x",
        "https://[::1",
        "ftp://h",
    ],
)
def test_bad_endpoint(certificates: Certificates, endpoint: str) -> None:
    with pytest.raises(KmsError) as caught:
        client(1, certificates, endpoint=endpoint)
    assert caught.value.code == "invalid_kms_request"


@pytest.mark.parametrize("ca", ["garbage", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_bad_ca(certificates: Certificates, ca: str) -> None:
    with pytest.raises(KmsError) as caught:
        client(1, certificates, ca_pem=ca)
    assert caught.value.code == "kms_tls"


@pytest.mark.parametrize("host", ["https://.", "https://.example.com", "https://" + "a" * 300])
async def test_host_that_is_no_name(certificates: Certificates, host: str) -> None:
    async def dial(name: str, port: int) -> Any:
        return await tcp_dial("127.0.0.1", accepting)

    async with serving(garbage_server, None) as accepting:
        error = await failing(client(1, certificates, endpoint=host, dial=dial).call("ListKeys", {}))
    assert error.code in ("invalid_kms_request", "kms_tls")


async def test_payload_that_is_no_json(certificates: Certificates) -> None:
    kms = client(1, certificates)
    for payload in ({"x": object()}, {"x": "\ud800"}, {"x": "a" * (1 << 20)}):
        assert (await failing(kms.call("Encrypt", payload))).code == "invalid_kms_request"


def test_standard_port_is_left_out_of_the_host_header(certificates: Certificates) -> None:
    endpoint = "https://kms.ap-northeast-2.amazonaws.com"
    for written in (endpoint, endpoint + ":443", endpoint + "/"):
        assert "kms.ap-northeast-2.amazonaws.com," in repr(client(1, certificates, endpoint=written))
    assert "[::1]:8443," in repr(client(1, certificates, endpoint="https://[::1]:8443"))
