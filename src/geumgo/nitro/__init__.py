"""AWS Nitro: the messages of the Nitro Secure Module (NSM), a client for it, the attestation document."""

from geumgo.nitro.client import NsmClient
from geumgo.nitro.document import AttestationDocument
from geumgo.nitro.errors import (
    DocumentError,
    ErrorCode,
    MessageError,
    NitroError,
    NsmRefused,
    NsmUnavailable,
)
from geumgo.nitro.transport import DeviceTransport, NsmTransport, SocketTransport, open_nsm

__all__ = (
    "AttestationDocument",
    "DeviceTransport",
    "DocumentError",
    "ErrorCode",
    "MessageError",
    "NitroError",
    "NsmClient",
    "NsmRefused",
    "NsmTransport",
    "NsmUnavailable",
    "SocketTransport",
    "open_nsm",
)
