"""The emulator as a process: HTTPS, boto3, restarts, kill -9."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sqlite3
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, SSLError
from cryptography import x509

from geumgo.attestation import SIMULATOR_OID
from geumgo.keys import generate_recipient_key, open_ciphertext_for_recipient, public_key_der
from geumgo.nitro import NsmClient
from geumgo.testing.kms import read_audit
from geumgo.testing.kms.__main__ import main
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

pytestmark = pytest.mark.system


@dataclass
class Emulator:
    process: subprocess.Popen[str]
    ready: dict[str, Any]
    state: Path
    clients: list[Any] = field(default_factory=list)

    def client(self, credentials: str = "credentials", **changes: Any) -> Any:
        content = json.loads(Path(self.ready[credentials]).read_text())
        arguments = {
            "endpoint_url": self.ready["endpoint"],
            "region_name": self.ready["region"],
            "verify": self.ready["ca"],
            "aws_access_key_id": content["access_key_id"],
            "aws_secret_access_key": content["secret_access_key"],
            "aws_session_token": content["session_token"],
            "config": Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=10),
        }
        client = boto3.client("kms", **{**arguments, **changes})
        self.clients.append(client)
        return client


@contextmanager
def emulator(state: Path, *arguments: str) -> Iterator[Emulator]:
    command = [sys.executable, "-m", "geumgo.testing.kms", "--port", "0", "--state", str(state), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate(timeout=10)[1]
        running = Emulator(process, json.loads(line), state)
        try:
            yield running
        finally:
            for client in running.clients:
                client.close()
    finally:
        process.kill()
        process.communicate(timeout=10)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "kms"


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def test_boto3_unchanged(state: Path) -> None:
    with emulator(state) as running:
        kms = running.client()
        metadata = kms.create_key(Description="data")["KeyMetadata"]
        key = metadata["Arn"]
        assert kms.describe_key(KeyId=key)["KeyMetadata"] == metadata
        context = {"app": "crm"}
        blob = kms.encrypt(KeyId=key, Plaintext=b"hello", EncryptionContext=context)["CiphertextBlob"]
        opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext=context)
        assert (opened["Plaintext"], opened["KeyId"]) == (b"hello", key)
        assert refused(lambda: kms.decrypt(CiphertextBlob=blob)) == "InvalidCiphertextException"
        made = kms.generate_data_key(KeyId=key, KeySpec="AES_256", EncryptionContext=context)
        opened = kms.decrypt(CiphertextBlob=made["CiphertextBlob"], EncryptionContext=context)
        assert opened["Plaintext"] == made["Plaintext"]
        assert "Plaintext" not in kms.generate_data_key_without_plaintext(KeyId=key, NumberOfBytes=16)
        assert len(kms.generate_random(NumberOfBytes=24)["Plaintext"]) == 24
        kms.create_alias(AliasName="alias/data", TargetKeyId=key)
        assert kms.encrypt(KeyId="alias/data", Plaintext=b"x")["KeyId"] == key
        assert [alias["AliasName"] for alias in kms.list_aliases()["Aliases"]] == ["alias/data"]
        assert [page["Keys"] for page in kms.get_paginator("list_keys").paginate()] == [
            [{"KeyId": metadata["KeyId"], "KeyArn": key}]
        ]
        kms.delete_alias(AliasName="alias/data")
        policy = kms.get_key_policy(KeyId=key, PolicyName="default")["Policy"]
        kms.put_key_policy(KeyId=key, PolicyName="default", Policy=policy)
        assert (
            refused(lambda: kms.put_key_policy(KeyId=key, Policy="{}")) == "MalformedPolicyDocumentException"
        )
        kms.disable_key(KeyId=key)
        assert refused(lambda: kms.encrypt(KeyId=key, Plaintext=b"x")) == "DisabledException"
        kms.enable_key(KeyId=key)
        deletion = kms.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        assert deletion["KeyState"] == "PendingDeletion"
        assert refused(lambda: kms.describe_key(KeyId="nothing")) == "NotFoundException"
        assert running.client("parent_credentials").list_keys()["Keys"]


def test_boto3_with_recipient(state: Path, tmp_path: Path) -> None:
    authority = NsmAuthority.open(tmp_path / "nsm")
    root = tmp_path / "root.pem"
    root.write_text(authority.root_pem)
    nsm = NsmClient(SoftwareNsm(authority, {0: b"\xab" * 48}))
    private = generate_recipient_key()
    recipient = {
        "KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256",
        "AttestationDocument": nsm.attest(public_key=public_key_der(private)),
    }
    with emulator(state, "--nitro-root", str(root)) as running:
        kms = running.client("parent_credentials")
        answer = kms.generate_random(NumberOfBytes=32, Recipient=recipient)
        assert "Plaintext" not in answer
        assert len(open_ciphertext_for_recipient(answer["CiphertextForRecipient"], private)) == 32
    with emulator(state) as running:
        # Without the root passed in, the same document is worth nothing.
        kms = running.client("parent_credentials")
        assert (
            refused(lambda: kms.generate_random(NumberOfBytes=32, Recipient=recipient))
            == "ValidationException"
        )


def test_wrong_credentials(state: Path) -> None:
    with emulator(state) as running:
        kms = running.client(aws_secret_access_key="wrong")
        assert refused(kms.list_keys) == "InvalidSignatureException"
        assert (
            refused(running.client(aws_access_key_id="AKIDOTHER").list_keys) == "UnrecognizedClientException"
        )
        assert refused(running.client(region_name="us-east-1").list_keys) == "InvalidSignatureException"
        with pytest.raises(SSLError):
            running.client(verify=True).list_keys()


def test_keys_survive_a_restart(state: Path) -> None:
    with emulator(state) as running:
        kms = running.client()
        key = kms.create_key()["KeyMetadata"]["Arn"]
        blob = kms.encrypt(KeyId=key, Plaintext=b"hello")["CiphertextBlob"]
        kms.create_alias(AliasName="alias/data", TargetKeyId=key)
        ca, credentials = (state / "ca.pem").read_bytes(), (state / "credentials.json").read_bytes()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
    with emulator(state) as running:
        kms = running.client()
        assert kms.decrypt(CiphertextBlob=blob, KeyId="alias/data")["Plaintext"] == b"hello"
        assert (state / "ca.pem").read_bytes() == ca
        assert (state / "credentials.json").read_bytes() == credentials
    names = [record["eventName"] for record in read_audit(state)]
    assert names == ["CreateKey", "Encrypt", "CreateAlias", "Decrypt"]


def test_kill_in_the_middle(state: Path) -> None:
    """Whatever was answered before kill -9 is there afterwards; nothing is half there."""
    answered: list[str] = []
    for _ in range(3):
        with emulator(state) as running:
            stop = threading.Event()

            def create(kms: Any, stop: threading.Event) -> None:
                while not stop.is_set():
                    try:
                        key = kms.create_key()["KeyMetadata"]["KeyId"]
                        blob = kms.encrypt(KeyId=key, Plaintext=key.encode())["CiphertextBlob"]
                    except Exception:  # the connection broke: not answered
                        return
                    answered.append(key + ":" + base64.b64encode(blob).decode())

            threads = [threading.Thread(target=create, args=(running.client(), stop)) for _ in range(3)]
            before = len(answered)
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 20
            while len(answered) < before + 12 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(running.process.pid, signal.SIGKILL)
            for thread in threads:
                thread.join(20)
            stop.set()
    assert len(answered) >= 36
    with emulator(state) as running:
        kms = running.client()
        for entry in answered:
            key, _, blob = entry.partition(":")
            assert kms.decrypt(CiphertextBlob=base64.b64decode(blob), KeyId=key)["Plaintext"] == key.encode()
    database = sqlite3.connect(state / "kms.sqlite3")
    try:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        keys = {row[0] for row in database.execute("SELECT id FROM keys")}
    finally:
        database.close()
    created = {
        record["responseElements"]["keyMetadata"]["keyId"]  # type: ignore[index,call-overload]
        for record in read_audit(state)
        if record["eventName"] == "CreateKey"
    }
    assert keys == created


def test_files_are_private_and_nothing_is_printed(state: Path) -> None:
    with emulator(state) as running:
        kms = running.client()
        key = kms.create_key()["KeyMetadata"]["KeyId"]
        plaintext = kms.generate_data_key(KeyId=key, KeySpec="AES_256")["Plaintext"]
        refused(lambda: kms.describe_key(KeyId="nothing"))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
        database = sqlite3.connect(state / "kms.sqlite3")
        (material,) = database.execute("SELECT material FROM keys").fetchone()
        database.close()
        running.process.send_signal(signal.SIGTERM)
        output, errors = running.process.communicate(timeout=10)
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert modes.pop("ca.pem") == 0o644
    assert set(modes.values()) == {0o600}, modes
    secret = json.loads((state / "credentials.json").read_text())["secret_access_key"]
    shown = output + errors + json.dumps(running.ready)
    for hidden in (plaintext, material):
        assert hidden.hex() not in shown
        assert base64.b64encode(hidden).decode() not in shown
    assert secret not in shown
    assert output == ""
    assert errors == ""


def test_certificates_carry_the_simulators_mark(state: Path) -> None:
    with emulator(state, "--host", "kms.example", "--host", "10.0.0.1") as running:
        context = ssl.create_default_context(cafile=running.ready["ca"])
        port = int(running.ready["endpoint"].rpartition(":")[2])
        for name in ("localhost", "127.0.0.1", "::1", "kms.example", "10.0.0.1"):
            with (
                socket.create_connection(("127.0.0.1", port), 5) as sock,
                context.wrap_socket(sock, server_hostname=name) as tls,
            ):
                der = tls.getpeercert(binary_form=True)
        assert der is not None
        ca = x509.load_pem_x509_certificate(Path(running.ready["ca"]).read_bytes())
        for certificate in (x509.load_der_x509_certificate(der), ca):
            extension = certificate.extensions.get_extension_for_oid(SIMULATOR_OID)
            assert not extension.critical
        with (
            socket.create_connection(("127.0.0.1", port), 5) as sock,
            pytest.raises(ssl.SSLCertVerificationError),
            context.wrap_socket(sock, server_hostname="other.example"),
        ):
            pass


def test_what_it_says_when_it_cannot_start(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)

    def says(*arguments: str) -> str:
        assert main(["--state", str(state), "--port", "0", *arguments]) == 1
        return capsys.readouterr().err

    with emulator(state) as running:
        assert "another emulator" in says()
        port = running.ready["endpoint"].rpartition(":")[2]
        assert "can't listen" in says("--state", str(tmp_path / "other"), "--port", port)
    assert "belongs to region" in says("--region", "us-east-1")
    assert "missing.pem" in says("--nitro-root", str(tmp_path / "missing.pem"))
    assert "PEM" in says("--nitro-root", str(state / "credentials.json"))
    assert "can't listen" in says("--bind", "no such host")
    assert "not a port" in says("--port", "99999999")
    assert "not a name" in says("--host", "가.example")
    (state / "ca.key").write_text("garbage")
    assert "certificate authority" in says()
    (state / "credentials.json").write_text("{}")
    assert "credentials.json" in says()
    (state / "kms.sqlite3").write_bytes(b"garbage" * 1000)
    assert "kms.sqlite3" in says()
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    assert "usage: geumgo kms-emulator" in capsys.readouterr().out


def test_other_requests(state: Path) -> None:
    with emulator(state) as running:
        context = ssl.create_default_context(cafile=running.ready["ca"])
        port = int(running.ready["endpoint"].rpartition(":")[2])

        def ask(data: bytes) -> bytes:
            with (
                socket.create_connection(("localhost", port), 5) as sock,
                context.wrap_socket(sock, server_hostname="localhost") as tls,
            ):
                tls.sendall(data)
                answer = b""
                while chunk := tls.recv(65536):
                    answer += chunk
                return answer

        end = b"Host: localhost\r\nConnection: close\r\n"
        assert ask(b"GET /livez HTTP/1.1\r\n" + end + b"\r\n").startswith(b"HTTP/1.1 200")
        assert ask(b"GET / HTTP/1.1\r\n" + end + b"\r\n").startswith(b"HTTP/1.1 405")
        unsigned = ask(b"POST / HTTP/1.1\r\n" + end + b"Content-Length: 2\r\n\r\n{}")
        assert unsigned.startswith(b"HTTP/1.1 400")
        assert b"MissingAuthenticationTokenException" in unsigned
        size = 2 << 20
        large = ask(b"POST / HTTP/1.1\r\n" + end + f"Content-Length: {size}\r\n\r\n".encode() + bytes(size))
        assert large.startswith(b"HTTP/1.1 413")
        twice = b"Authorization: a\r\nAuthorization: b\r\nContent-Length: 2\r\n\r\n{}"
        assert b"appears twice" in ask(b"POST / HTTP/1.1\r\n" + end + twice)
        assert running.client().list_keys()["Keys"] == []
    with pytest.raises(EndpointConnectionError):
        running.client().list_keys()
