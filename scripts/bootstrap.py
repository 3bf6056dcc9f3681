"""Make `.venv` and install what a lock file lists: `python3 scripts/bootstrap.py all|dev`.

Standard library only, and no root. Debian's python3 comes without pip, ensurepip and a CA bundle;
there pip is taken from the distribution's own package of the wheel, downloaded into `build/`.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import signal
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
UNFINISHED = ".unfinished"
"""In `.venv` while pip works: what an interrupted pip leaves may look installed and not be."""
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
    if is_installed(lock_name):
        return 0
    WORK.mkdir(parents=True, exist_ok=True)
    with (WORK / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("bootstrap: waiting for another make that sets up", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        return 0 if is_installed(lock_name) else install(lock_name)


def install(lock_name: str) -> int:
    """Install into `.venv`, which is made where there is none that can be used."""
    if not venv_is_usable():
        print("bootstrap: making .venv", flush=True)
        venv.EnvBuilder(with_pip=False, symlinks=True, clear=True).create(VENV)
    pip = find_pip()
    if pip is None:
        return fail(
            "There is no pip here, and none could be had from the distribution.",
            "Install it (Debian: apt-get install python3-pip; Fedora: dnf install python3-pip) and run make again.",
        )
    print(f"bootstrap: installing the packages of requirements/{lock_name}.txt", flush=True)
    unfinished = VENV / UNFINISHED
    unfinished.touch()
    command = [*pip, "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    requirements = str(ROOT / "requirements" / f"{lock_name}.txt")
    if run([*command, "--require-hashes", "--only-binary", ":all:", "-r", requirements]) != 0:
        return fail(
            "Some packages could not be installed; pip's message is above.",
            "A package index must be reachable; PIP_INDEX_URL and PIP_CERT name one of your own.",
        )
    if run([*command, "--no-deps", "--no-build-isolation", "--no-index", "-e", str(ROOT)]) != 0:
        return fail("Geumgo itself could not be installed into .venv.", "Delete .venv and run make again.")
    stamp(lock_name).write_text(wanted(lock_name))
    unfinished.unlink()
    return 0


def stamp(lock_name: str) -> Path:
    """Return the file that says what was installed."""
    return VENV / f".installed-{lock_name}"


def wanted(lock_name: str) -> str:
    """Return what that file says when `.venv` is up to date."""
    files = (ROOT / "requirements" / f"{lock_name}.txt", ROOT / "pyproject.toml")
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def is_installed(lock_name: str) -> bool:
    """Whether there is nothing to do."""
    said = stamp(lock_name)
    return venv_is_usable() and said.is_file() and said.read_text() == wanted(lock_name)


def venv_is_usable() -> bool:
    """Whether `.venv` is whole, has an interpreter, and was made in this folder, which its programs name."""
    facts = VENV / "pyvenv.cfg"
    if not PYTHON.exists() or not facts.is_file() or (VENV / UNFINISHED).exists():
        return False
    lines = facts.read_text(encoding="utf-8", errors="replace").splitlines()
    return all(line.endswith(f" {VENV}") for line in lines if line.startswith("command = "))


def find_pip() -> list[str] | None:
    """Return the command that runs pip for `.venv`, or None."""
    if importlib.util.find_spec("ensurepip") and run([str(PYTHON), "-m", "ensurepip"], quiet=True) == 0:
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


def run(command: list[str], cwd: Path = ROOT, quiet: bool = False) -> int:
    """Run `command`, its output shown unless `quiet`, and return its exit status."""
    environment = {**os.environ, "TMPDIR": str(WORK / "tmp")} if command[0] == "apt-get" else None
    shown = subprocess.DEVNULL if quiet else None
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=shown, check=False
    )
    return done.returncode


def fail(what: str, fix: str) -> int:
    print(f"bootstrap: {what}\nbootstrap: {fix}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    # Told to end, it ends what it runs, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "all"))
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        sys.exit(
            fail(f"{error.filename}: {error.strerror}", f"{ROOT} must be a folder that you can write to.")
        )
