"""The mark of simulators: a certificate extension by which evidence confesses that no hardware made it."""

from __future__ import annotations

from cryptography import x509

__all__ = ("SIMULATOR_OID", "simulator_extension")

SIMULATOR_OID = x509.ObjectIdentifier("2.25.68529971432006075395566968466152863513")
"""Object identifier of the extension; an arc under 2.25 is a UUID and needs no registration (X.667)."""

_DER_NULL = b"\x05\x00"


def simulator_extension() -> x509.UnrecognizedExtension:
    """Return the extension that every certificate of a simulator carries, not critical: presence is all."""
    return x509.UnrecognizedExtension(SIMULATOR_OID, _DER_NULL)
