"""Make `.venv` and install what a lock file lists: `python3 scripts/bootstrap.py all|dev`.

Standard library only, and no root. Debian's python3 comes without pip, ensurepip and a CA bundle;
there pip is taken from the distribution's own package of the wheel, downloaded into `build/`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
WORK = ROOT / "build" / "bootstrap"
OLDEST = (3, 11)
DEBIAN_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Where Debian's pip expects certificates, whether or not the package that has them is installed."""
WITH_BUNDLE = """\
import runpy, sys
_, wheel, bundle = sys.argv[:3]
sys.path.insert(0, wheel)
from pip._vendor import certifi
certifi.where = lambda: bundle
sys.argv[:3] = ["pip"]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""Runs pip out of its wheel. `--cert` would be too late: pip loads its usual file before it reads options."""


def main(lock_name: str) -> int:
    """Bring `.venv` up to `requirements/<lock_name>.txt`; a no-op when it is already there."""
    if sys.version_info < OLDEST:
        found = ".".join(map(str, sys.version_info[:3]))
        return fail(
            f"Python {found} is too old.", "Install Python 3.11 or newer, or name one: make PYTHON=python3.12"
        )
    lock = ROOT / "requirements" / f"{lock_name}.txt"
    stamp = VENV / f".installed-{lock_name}"
    wanted = hashlib.sha256(lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    usable = venv_is_usable()
    if usable and stamp.is_file() and stamp.read_text() == wanted:
        return 0
    if not usable:
        print("bootstrap: making .venv", flush=True)
        venv.EnvBuilder(with_pip=False, symlinks=True, clear=True).create(VENV)
    pip = find_pip()
    if pip is None:
        return fail(
            "There is no pip here, and none could be had from the distribution.",
            "Install it (Debian: apt-get install python3-pip; Fedora: dnf install python3-pip) and run make again.",
        )
    print(f"bootstrap: installing the packages of requirements/{lock_name}.txt", flush=True)
    install = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    if run([*install, "--require-hashes", "--only-binary", ":all:", "-r", str(lock)]) != 0:
        return fail(
            "Some packages could not be installed; pip's message is above.",
            "A package index must be reachable; PIP_INDEX_URL and PIP_CERT name one of your own.",
        )
    if run([*install, "--no-deps", "--no-build-isolation", "--no-index", "-e", str(ROOT)]) != 0:
        return fail("Geumgo itself could not be installed into .venv.", "Delete .venv and run make again.")
    stamp.write_text(wanted)
    return 0


def venv_is_usable() -> bool:
    """Whether `.venv` has an interpreter and was made in this folder, which its programs name."""
    facts = VENV / "pyvenv.cfg"
    if not PYTHON.exists() or not facts.is_file():
        return False
    lines = facts.read_text().splitlines()
    return all(line.endswith(f" {VENV}") for line in lines if line.startswith("command = "))


def find_pip() -> list[str] | None:
    """Return the command that runs pip for `.venv`, or None."""
    if importlib.util.find_spec("ensurepip") and run([str(PYTHON), "-m", "ensurepip"]) == 0:
        return [str(PYTHON), "-m", "pip"]
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--python", str(PYTHON)]
    wheel = distribution_wheel()
    if wheel is None:
        return None
    if DEBIAN_CERTIFICATES.is_file():
        return [str(PYTHON), str(wheel / "pip")]
    return [str(PYTHON), "-P", "-c", WITH_BUNDLE, str(wheel), str(certificates(wheel))]


def distribution_wheel() -> Path | None:
    """Download Debian's package of the pip wheel without root, with apt's state in a folder of ours."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return None
    print("bootstrap: fetching pip from the distribution (python3-pip-whl)", flush=True)
    for folder in ("state/lists/partial", "cache/archives/partial", "tmp"):
        (WORK / folder).mkdir(parents=True, exist_ok=True)
    options = [
        f"Dir::State={WORK}/state",
        f"Dir::State::lists={WORK}/state/lists",
        f"Dir::Cache={WORK}/cache",
        "Dir::State::status=/var/lib/dpkg/status",
        "Debug::NoLocking=1",
        "APT::Sandbox::User=",
    ]
    apt = ["apt-get", "-qq", *(word for option in options for word in ("-o", option))]
    if run([*apt, "update"]) != 0 or run([*apt, "download", "python3-pip-whl"], cwd=WORK) != 0:
        return None
    package = max(WORK.glob("python3-pip-whl_*.deb"), default=None)
    if package is None or run(["dpkg-deb", "-x", str(package), str(WORK / "pip-whl")]) != 0:
        return None
    return max((WORK / "pip-whl").glob("usr/share/python-wheels/pip-*.whl"), default=None)


def certificates(wheel: Path) -> Path:
    """Copy the CA bundle out of pip's wheel: OpenSSL reads no zip files."""
    bundle = WORK / "cacert.pem"
    with zipfile.ZipFile(wheel) as archive:
        bundle.write_bytes(archive.read("pip/_vendor/certifi/cacert.pem"))
    return bundle


def run(command: list[str], cwd: Path = ROOT) -> int:
    """Run `command`, its output shown, and return its exit status."""
    environment = {**os.environ, "TMPDIR": str(WORK / "tmp")} if command[0] == "apt-get" else None
    return subprocess.run(command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, check=False).returncode


def fail(what: str, fix: str) -> int:
    print(f"bootstrap: {what}\nbootstrap: {fix}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
