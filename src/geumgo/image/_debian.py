"""Locked Debian packages, fetched by apt without root and without touching the machine's own apt.

State, lists, cache and sources list lie in a folder of ours; proxies, certificates and credentials of the
machine's apt configuration stay in force. Works from another Debian release, too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from geumgo.image._cache import Cache, hash_file
from geumgo.image._errors import Unavailable
from geumgo.image._run import run
from geumgo.image.lock import Lock, Locked

__all__ = ("MIRROR_VARIABLE", "distribution_package", "fetch_packages", "mirror_of")

MIRROR_VARIABLE = "GEUMGO_DEBIAN_MIRROR"
APT = Path("/etc/apt")
KEYRINGS = tuple(Path("/usr/share/keyrings/debian-archive-keyring" + suffix) for suffix in (".gpg", ".pgp"))
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "";
APT::Install-Recommends "false";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/state/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Cache::archives "{folder}/cache/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Log "{folder}/log";
"""
_OWN_SOURCES = """\
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
"""


def fetch_packages(
    lock: Lock, packages: Sequence[Locked], cache: Cache, environment: Mapping[str, str]
) -> dict[str, Path]:
    """Return each package's file by name, from the cache or by apt.

    Raises:
        Unavailable: there is no apt or no mirror of Debian, or a file can't be had with its locked hash.
    """
    found = {package.name: cache.blob(package.sha256) for package in packages}
    missing = [package for package in packages if found[package.name] is None]
    if missing:
        _download(lock, missing, cache, environment)
        found.update((package.name, cache.blob(package.sha256)) for package in missing)
    return {name: path for name, path in found.items() if path is not None}


def _download(lock: Lock, packages: Sequence[Locked], cache: Cache, environment: Mapping[str, str]) -> None:
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise Unavailable(f"there is no {program} on this machine")
    mirror = mirror_of(environment, _sources(APT))
    if mirror is None:
        raise Unavailable(
            "no mirror of Debian is known on this machine",
            fix=f"Set {MIRROR_VARIABLE} to the address of one.",
        )
    with cache.scratch() as folder:
        keyring = next((path for path in KEYRINGS if path.is_file()), None)
        # Without Debian's keyring the index is taken as it comes: the lock's hashes decide, not the index.
        trust = f"signed-by={keyring}" if keyring else "trusted=yes"
        options = f"arch={lock.debian_architecture} target=Packages {trust}"
        line = f"deb [{options}] {mirror} {lock.suite} {lock.component}\n"
        (folder / "sources.list").write_text(line, encoding="utf-8")
        # All of them in one call: apt reads its index once.
        wanted = [f"{package.name}:{lock.debian_architecture}={package.version}" for package in packages]
        files = _apt(folder, _CONFIGURATION + _OWN_SOURCES, lock.debian_architecture, wanted)
        hashes = {hash_file(path): path for path in files}
        for package in packages:
            if package.sha256 not in hashes:
                raise Unavailable(
                    f"{package.name} {package.version} was served with another SHA-256 than locked"
                )
            cache.add_blob(hashes[package.sha256])


def _apt(folder: Path, configuration: str, architecture: str, wanted: Sequence[str]) -> list[Path]:
    for name in ("state/lists/partial", "cache/archives/partial", "log", "packages", "tmp"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    text = configuration.format(folder=folder.absolute(), architecture=architecture)
    (folder / "apt.conf").write_text(text, encoding="utf-8")
    apt = ["apt-get", "-qq", "-c", str(folder / "apt.conf")]
    plain = {"LC_ALL": "C", "TMPDIR": str((folder / "tmp").absolute())}  # /tmp may not be ours to write
    run([*apt, "update"], environment=plain, error=Unavailable)
    run([*apt, "download", *wanted], cwd=folder / "packages", environment=plain, error=Unavailable)
    return sorted((folder / "packages").glob("*.deb"))


def distribution_package(name: str, folder: Path) -> Path:
    """Return a package of the machine's own release, fetched into `folder` and not locked.

    Raises:
        Unavailable: there is no apt, or it has no such package.
    """
    for program in ("apt-get", "dpkg-deb", "dpkg"):
        if shutil.which(program) is None:
            raise Unavailable(f"there is no {program} on this machine")
    architecture = run(["dpkg", "--print-architecture"], error=Unavailable).decode().strip()
    files = _apt(folder, _CONFIGURATION, architecture, [name])
    if not files:
        raise Unavailable(f"apt did not fetch {name}")
    return files[0]


def mirror_of(environment: Mapping[str, str], sources: Iterable[str]) -> str | None:
    """Return the address of a Debian mirror: of the environment, else of apt's own sources.

    Args:
        environment: may have GEUMGO_DEBIAN_MIRROR.
        sources: contents of apt's sources files, in the one-line or the deb822 format.
    """
    if environment.get(MIRROR_VARIABLE):
        return environment[MIRROR_VARIABLE].strip().split()[0]
    for text in sources:
        for uri, suites, components in [*_one_line(text), *_deb822(text)]:
            plain = uri.rstrip("/")
            security = any(suite.endswith(("-security", "/updates")) for suite in suites)
            # Ubuntu's archive has a component of this name, too.
            if "main" in components and not security and "debian" in plain.rpartition("/")[2]:
                return plain
    return None


def _sources(folder: Path) -> Iterator[str]:
    for path in [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]:
        if path.suffix in (".list", ".sources"):
            try:
                yield path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue


def _one_line(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for line in text.splitlines():
        match = re.fullmatch(r"\s*deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)\s*(?:#.*)?", line)
        if match:
            yield match[1], [match[2]], match[3].split()


def _deb822(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, list[str]] = {}
        field = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            name, colon, value = line.partition(":")
            if colon and not line[0].isspace():
                field = name.strip().lower()
                fields[field] = value.split()
            elif field and line[:1].isspace():
                fields[field] += line.split()
        if fields.get("enabled", ["yes"])[:1] in (["no"], ["false"]) or "deb" not in fields.get("types", []):
            continue
        for uri in fields.get("uris", []):
            yield uri, fields.get("suites", []), fields.get("components", [])
