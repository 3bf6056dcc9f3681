"""`geumgo attestation`: what a person sees, what a program reads, and how failures end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from geumgo._base import GeumgoError, SystemClock
from geumgo.attestation import Evidence, Statement, Use
from geumgo.cli.attestation import app
from geumgo.nitro import NsmClient
from geumgo.testing.nsm import NsmAuthority, SoftwareNsm

PCR0 = "22f9e1c949208da55eb01b9b9fc88f87454f77ba133f0d82320b509621c92482152a99d0a12335b97178c02d6f977d01"
NONCE = b"n" * 32


@pytest.fixture(scope="session")
def real() -> str:
    root = Path(os.environ.get("GEUMGO_SHARED", Path(__file__).resolve().parents[3] / "shared"))
    path = root / "fixtures" / "aws_nitro_document.cbor"
    if not path.is_file():
        pytest.skip(f"no reference fixtures in {root}; set GEUMGO_SHARED to the folder that has them")
    return str(path)


@pytest.fixture
def simulated(tmp_path: Path) -> tuple[str, str]:
    """A file of evidence and the file of its root."""
    authority = NsmAuthority.open(tmp_path / "nsm")
    statement = Statement(Use.SEAL, "suite", b"k" * 32, "demo", bytes(48))
    nsm = NsmClient(SoftwareNsm(authority, dict.fromkeys((0, 1, 2), b"\x01" * 48)))
    document = nsm.attest(public_key=statement.key, user_data=statement.digest(), nonce=NONCE)
    path = tmp_path / "evidence.json"
    path.write_bytes(Evidence("nitro", document, statement.to_bytes()).to_json())
    return str(path), str(tmp_path / "nsm" / "root.pem")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERM": "dumb"})


def verified(*arguments: str) -> dict[str, Any]:
    result = run("verify", *arguments, "--json")
    assert result.exit_code == 0, result.output
    value = json.loads(result.stdout)
    assert value.pop("verified") is True
    return value


def failure(*arguments: str) -> GeumgoError:
    result = run(*arguments)
    assert result.exit_code != 0
    assert isinstance(result.exception, GeumgoError), result.output
    return result.exception


def test_show_says_that_nothing_was_verified(real: str) -> None:
    result = run("show", real)
    assert result.exit_code == 0
    assert "NOT VERIFIED" in result.stdout
    assert PCR0 in result.stdout.replace("\n", "").replace(" ", "")
    value = json.loads(run("show", real, "--json").stdout)
    assert (value["verified"], value["pcr0"], value["algorithm"]) == (False, PCR0, -35)
    assert value["issued"].startswith("2022-11-09T22:52:00.696")


def test_show_of_evidence_shows_the_statement(simulated: tuple[str, str]) -> None:
    value = json.loads(run("show", simulated[0], "--json").stdout)
    assert (value["use"], value["suite"], value["pool"]) == ("seal", "suite", "demo")


@pytest.mark.parametrize(
    "at", ["document", "2022-11-09T22:53:00Z", "2022-11-09T22:53:00", "2022-11-10T07:53:00+09:00"]
)
def test_the_real_document_verifies_at_its_time(real: str, at: str) -> None:
    value = verified(real, "--at", at)
    assert value["measurements"]["pcr0"] == PCR0
    assert (value["debug"], value["simulated"]) == (False, False)


def test_the_real_document_does_not_verify_today(real: str) -> None:
    assert failure("verify", real).code == "expired_certificate"


def test_age_is_the_askers_choice(real: str) -> None:
    late = "2022-11-09T23:52:00Z"
    assert failure("verify", real, "--at", late).code == "stale_evidence"
    assert verified(real, "--at", late, "--max-age", "3600")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--nonce", "00"], "wrong_nonce"),
        (["--use", "seal"], "wrong_use"),
    ],
)
def test_questions_that_the_real_document_does_not_answer(
    real: str, arguments: Sequence[str], code: str
) -> None:
    assert failure("verify", real, "--at", "document", *arguments).code == code


def test_simulated_evidence_needs_its_root(simulated: tuple[str, str]) -> None:
    evidence, root = simulated
    assert failure("verify", evidence).code == "untrusted_root"
    value = verified(evidence, "--root", root, "--simulated", "--nonce", NONCE.hex(), "--use", "seal")
    assert (value["simulated"], value["statement"]["pool"]) == (True, "demo")
    assert value["issued_ms"] <= SystemClock().now_ms()
    # The mark in the certificates is enough.
    assert verified(evidence, "--root", root)["simulated"]


def test_a_person_is_warned_of_simulators(simulated: tuple[str, str]) -> None:
    evidence, root = simulated
    result = run("verify", evidence, "--root", root, "--simulated")
    assert result.exit_code == 0
    assert "no hardware stands behind" in result.output


def test_the_use_is_compared_where_it_is_asked_for(simulated: tuple[str, str]) -> None:
    evidence, root = simulated
    assert failure("verify", evidence, "--root", root, "--use", "kms").code == "wrong_use"


def test_files_that_are_no_evidence(tmp_path: Path, simulated: tuple[str, str]) -> None:
    junk = tmp_path / "junk"
    junk.write_bytes(b"hello")
    assert failure("show", str(junk)).code == "malformed"
    assert failure("verify", str(junk)).code == "malformed"
    assert failure("verify", str(tmp_path / "absent")).code == "file"
    assert failure("verify", simulated[0], "--root", str(junk)).code == "bad_root"
    junk.write_bytes(bytes(2 << 20))
    assert failure("verify", str(junk)).code == "malformed"


@pytest.mark.parametrize(
    "arguments",
    [["--simulated"], ["--at", "yesterday"], ["--nonce", "xyz"], ["--use", "sign"], ["--max-age", "0"]],
    ids=" ".join,
)
def test_wrong_usage_is_said_to_be_that(simulated: tuple[str, str], arguments: Sequence[str]) -> None:
    result = run("verify", simulated[0], *arguments)
    assert result.exit_code == 2
    assert not isinstance(result.exception, GeumgoError)


def test_failures_end_with_1_and_say_what_to_do(real: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "geumgo.cli", "attestation", "verify", real],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert "expired_certificate" in result.stderr
    assert "Ask the enclave for new evidence" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
