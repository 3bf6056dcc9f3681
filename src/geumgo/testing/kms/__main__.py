"""``python -m geumgo.testing.kms``: the KMS emulator as a process."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from geumgo._base import GeumgoError, forbid_core_dumps
from geumgo.attestation import TrustRoots
from geumgo.testing.kms._app import ACCOUNT, REGION
from geumgo.testing.kms._server import serve

__all__ = ("main",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="geumgo kms-emulator",
        description="AWS KMS's API with attested decryption, on this machine, for development and tests. "
        "Prints one JSON line when it is ready. It is no hardware security module: whoever reads the state folder has "
        "the keys.",
    )
    parser.add_argument(
        "--port", type=int, default=8443, help="TCP port; 0 for any that is free (default %(default)s)"
    )
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="keys, credentials and CA")
    parser.add_argument(
        "--nitro-root",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="PEM with the root of a software NSM whose documents to accept; may be repeated",
    )
    parser.add_argument(
        "--aws-nitro", action="store_true", help="accept documents of real Nitro hardware as well"
    )
    parser.add_argument("--bind", default="127.0.0.1", metavar="ADDRESS", help="(default %(default)s)")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="further name for the server certificate; may be repeated",
    )
    parser.add_argument("--region", default=REGION, help="(default %(default)s)")
    parser.add_argument("--account", default=ACCOUNT, help="(default %(default)s)")
    options = parser.parse_args(arguments)
    forbid_core_dumps()  # it holds keys
    # uvicorn stops gracefully and then raises the signal again; to be told to stop is no failure.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    try:
        roots = TrustRoots.aws_nitro() if options.aws_nitro else TrustRoots(())
        for file in options.nitro_root:
            roots |= TrustRoots.from_pem(file.read_bytes(), simulated=True)
        asyncio.run(
            serve(
                options.port,
                options.state,
                roots=roots,
                bind=options.bind,
                hosts=options.host,
                region=options.region,
                account=options.account,
            )
        )
    except GeumgoError as error:
        sys.stderr.write(error.diagnostics() + "\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _stop(number: int, frame: object) -> None:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
