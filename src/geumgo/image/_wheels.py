"""Locked wheels, fetched by pip for the image's Python rather than for the one that runs this."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from geumgo.image._cache import Cache, hash_file
from geumgo.image._debian import distribution_package
from geumgo.image._errors import BuildError, Unavailable
from geumgo.image._run import run
from geumgo.image.lock import Lock, Locked

__all__ = ("fetch_wheels", "find_pip")

PLATFORMS = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014")
"""All that Debian bookworm's C library (2.36) can run; the lock's hash picks the one."""
BUNDLED = Path("/usr/share/python-wheels")
"""Where Debian's and Fedora's packages of pip's wheel put it."""
SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""Where Debian's pip expects certificates, whether or not the package that has them is installed."""
_WITH_BUNDLE = """\
import runpy, sys
_, wheel, bundle = sys.argv[:3]
sys.path.insert(0, wheel)
from pip._vendor import certifi
certifi.where = lambda: bundle
sys.argv[:3] = ["pip"]
runpy.run_module("pip", run_name="__main__", alter_sys=True)
"""
"""Runs pip out of its wheel. `--cert` would be too late: pip loads its usual file before it reads options."""


def fetch_wheels(lock: Lock, wheels: Sequence[Locked], cache: Cache) -> dict[str, Path]:
    """Return each wheel's file by name, from the cache or by pip.

    Raises:
        Unavailable: there is no pip, or a file can't be had with its locked hash.
    """
    found = {wheel.name: cache.blob(wheel.sha256) for wheel in wheels}
    missing = [wheel for wheel in wheels if found[wheel.name] is None]
    if missing:
        _download(lock, missing, cache)
        found.update((wheel.name, cache.blob(wheel.sha256)) for wheel in missing)
    return {name: path for name, path in found.items() if path is not None}


def _download(lock: Lock, wheels: Sequence[Locked], cache: Cache) -> None:
    with cache.scratch() as folder:
        requirements = folder / "requirements.txt"
        lines = [f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels]
        requirements.write_text("".join(lines), encoding="ascii")
        command = [
            *find_pip(folder),
            *("download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"),
            *("--require-hashes", "--only-binary", ":all:", "--implementation", "cp"),
            *("--python-version", lock.python),
            *(word for name in PLATFORMS for word in ("--platform", f"{name}_{lock.architecture.machine}")),
            *("--dest", str(folder / "wheels"), "--requirement", str(requirements)),
        ]
        run(command, error=Unavailable)
        hashes = {hash_file(path): path for path in (folder / "wheels").glob("*.whl")}
        for wheel in wheels:
            if wheel.sha256 not in hashes:
                raise Unavailable(f"{wheel.name} {wheel.version} was served with another SHA-256 than locked")
            cache.add_blob(hashes[wheel.sha256])


def find_pip(folder: Path) -> list[str]:
    """Return the command that runs pip: this interpreter's, its base's, or one inside a wheel.

    Args:
        folder: where a CA bundle may be put.

    Raises:
        Unavailable: no pip was found.
    """
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    base = getattr(sys, "_base_executable", sys.executable)
    if base != sys.executable:
        try:
            run([base, "-m", "pip", "--version"], timeout=60.0)
        except BuildError:
            pass
        else:
            return [base, "-m", "pip"]
    wheel = next(_pip_wheels(), None) or _distribution_pip(folder)
    return _run_wheel(wheel, folder)


def _distribution_pip(folder: Path) -> Path:
    """Fetch pip's wheel from the machine's distribution; what it downloads is checked against the lock."""
    try:
        package = distribution_package("python3-pip-whl", folder / "pip")
    except Unavailable as error:
        raise Unavailable(
            "there is no pip on this machine", why=error.what, fix="Install pip (Debian: python3-pip-whl)."
        ) from None
    run(["dpkg-deb", "-x", str(package), str(folder / "pip" / "files")], error=Unavailable)
    wheel = next((folder / "pip" / "files").glob("usr/share/python-wheels/pip-*.whl"), None)
    if wheel is None:
        raise Unavailable("the distribution's package of pip has no wheel")
    return wheel


def _pip_wheels() -> Iterator[Path]:
    spec = importlib.util.find_spec("ensurepip")
    if spec is not None and spec.origin is not None:
        yield from sorted((Path(spec.origin).parent / "_bundled").glob("pip-*.whl"), reverse=True)
    yield from sorted(BUNDLED.glob("pip-*.whl"), reverse=True)


def _run_wheel(wheel: Path, folder: Path) -> list[str]:
    """Return the command that runs pip out of its wheel, with the wheel's own CA bundle where the system has none."""
    plain = [sys.executable, f"{wheel}/pip"]
    if SYSTEM_CERTIFICATES.is_file():
        return plain
    bundle = folder / "cacert.pem"  # OpenSSL reads no zip files
    try:
        with zipfile.ZipFile(wheel) as archive:
            bundle.write_bytes(archive.read("pip/_vendor/certifi/cacert.pem"))
    except (OSError, zipfile.BadZipFile, KeyError):
        return plain
    return [sys.executable, "-P", "-c", _WITH_BUNDLE, str(wheel), str(bundle)]
