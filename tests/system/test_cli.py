"""The command line as a person uses it: real commands, their output, their exit codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
POLICY = ROOT / "examples" / "deid" / "policy.yaml"


class Shell:
    """Runs `geumgo` with folders of its own."""

    def __init__(self, home: Path, runtime: Path) -> None:
        self.home = home
        self.environment = {
            **os.environ,
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_RUNTIME_DIR": str(runtime),
            "COLUMNS": "100",
            "NO_COLOR": "1",
        }

    def __call__(self, *words: object, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "geumgo.cli", *map(str, words)],
            capture_output=True,
            text=True,
            env=self.environment,
            cwd=self.home,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    runtime = Path(tempfile.mkdtemp(prefix="gc-"))
    shell = Shell(tmp_path_factory.mktemp("home"), runtime)
    shell("up", "--enclaves", 1, "--gateways", 1)
    yield shell
    shell("down")
    shutil.rmtree(runtime)


def test_ps(shell: Shell) -> None:
    rows = {row["name"]: row for row in json.loads(shell("ps", "--json"))}
    assert set(rows) == {"kms", "enclave-1", "gateway-1"}
    assert rows["enclave-1"]["state"] == "ready"
    assert rows["enclave-1"]["measurements"]["PCR0"]
    assert "enclave-1" in shell("ps")


def test_call_with_a_file_of_ones_own(shell: Shell, tmp_path: Path) -> None:
    policy, source, output = tmp_path / "p.yaml", tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    policy.write_text("version: 1\nname: mine\nfields:\n  who: {technique: mask, as: name}\n  note: keep\n")
    source.write_text(
        '{"who": "홍길동", "note": "안녕", "other": "x"}\n{"who": "김철수", "note": null}\nbroken\n'
    )
    said = json.loads(
        shell("call", "deidentify", "--policy", policy, "--in", source, "--out", output, "--json")
    )
    assert (said["read"], said["written"], said["rejected"]) == (3, 2, 1)
    assert said["rows_rejected"] == [{"row": 3, "field": "", "code": "not_json"}]
    first, second = [json.loads(line) for line in output.read_text().splitlines()]
    assert (first["who"], first["note"]) == ("홍*동", "안녕")
    assert not first.get("other")
    assert second["note"] is None


def test_call_says_what_is_wrong(shell: Shell, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    missing = shell("call", "deidentify", "--policy", POLICY, "--in", "none.csv", "--out", output, status=1)
    assert "none.csv" in missing
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nname: x\nfields:\n  a: {technique: magic}\n")
    source = tmp_path / "in.csv"
    source.write_text("a\n1\n")
    said = shell("call", "deidentify", "--policy", bad, "--in", source, "--out", output, status=1)
    assert "bad.yaml:4" in said.replace("\n", "")
    refused = shell("call", "reidentify", "--policy", POLICY, "--in", source, "--out", output, status=1)
    assert "forbidden" in refused
    assert not output.exists()


def test_echo_without_a_seal(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    assert shell("call", "echo", "--open", "--in", tmp_path / "x") == "hello"


def test_a_second_up_is_refused(shell: Shell) -> None:
    assert "geumgo down" in shell("up", status=1)


@pytest.mark.parametrize("how", ["--debug", "--unsandboxed"])
def test_a_stack_with_zero_pcrs_stays_up_without_a_key(shell: Shell, tmp_path: Path, how: str) -> None:
    said = shell("up", "--state", tmp_path / "state", how)
    try:
        assert "PCRs are zero, so the enclaves have no key" in " ".join(said.split())
        rows = json.loads(shell("ps", "--state", tmp_path / "state", "--json"))
        reasons = [row["reason"] for row in rows if row["role"] == "manager"]
        assert reasons == ["access_denied", "access_denied"]
        assert len(rows) == 5
    finally:
        shell("down", "--state", tmp_path / "state")


def test_logs(shell: Shell) -> None:
    lines = shell("logs", "enclave-1", "-n", "3").splitlines()
    assert 0 < len(lines) <= 3
    assert all(json.loads(line)["server"] == "manager" for line in lines)
    assert "kms, enclave-1, gateway-1" in shell("logs", "nothing", status=1).replace("\n", " ")


def test_calling_a_gateway_by_name_needs_the_measurement(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("hello")
    said = shell("call", "echo", "--in", tmp_path / "x", "--gateway", "http://127.0.0.1:1", status=1)
    assert "--pcr0" in said


def test_a_pool_of_ones_own(shell: Shell, tmp_path: Path) -> None:
    """create → build → release → audit against the emulator, by the commands of docs/pools.md."""
    state = Path(shell.environment["XDG_STATE_HOME"]) / "geumgo" / "default"
    credentials = json.loads((state / "kms" / "credentials.json").read_text())
    endpoint = json.loads((state / "pool.json").read_text())["endpoint"]
    shell.environment |= {
        "AWS_ACCESS_KEY_ID": credentials["access_key_id"],
        "AWS_SECRET_ACCESS_KEY": credentials["secret_access_key"],
    }
    admin = credentials["principal"]
    caller = json.loads(shell("caller", "new", "batch", "--out", tmp_path / "batch.pem", "--json"))
    assert (tmp_path / "batch.pem").stat().st_mode & 0o777 == 0o600
    digest = json.loads(shell("policy", "check", POLICY, "--json"))["sha256"]
    config = {
        "pool": "mine",
        "purposes": ["customers"],
        "kms": {"endpoint": endpoint, "region": "ap-northeast-2", "ca_file": str(state / "kms" / "ca.pem")},
        "operations": {"deidentify": {"callers": ["batch"]}},
        "callers": {
            "batch": {"public_key": caller["public_key"], "purposes": ["customers"], "policies": [digest]}
        },
    }
    (tmp_path / "pool.yaml").write_text(json.dumps(config))  # JSON is YAML
    measured, eif = tmp_path / "measured.json", tmp_path / "enclave.eif"
    made = json.loads(
        shell(
            "pool",
            "create",
            "--config",
            tmp_path / "pool.yaml",
            "--admin",
            admin,
            "--out",
            measured,
            "--json",
        )
    )
    built = json.loads(shell("image", "build", "--configuration", measured, "--out", eif, "--json"))
    released = json.loads(
        shell("pool", "release", "--measured", measured, "--eif", eif, "--admin", admin, "--json")
    )
    assert released["key_id"] == made["key_id"]
    assert released["PCR0"] in json.dumps(built)
    again = shell("pool", "release", "--measured", measured, "--eif", eif, "--admin", admin, status=1)
    assert "access_denied" in again, "nobody can write the policy a second time"

    from geumgo.testing.kms import read_audit

    records = tmp_path / "trail.json"
    records.write_text(json.dumps({"Records": read_audit(state / "kms")}))
    whole = ("--measured", measured, "--eif", eif, "--admin", admin)
    assert "may be" in shell("pool", "audit", records, *whole)
    shell("pool", "audit", records, "--measured", measured, "--admin", admin, status=1)
