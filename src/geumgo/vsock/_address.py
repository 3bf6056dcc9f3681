"""The one address type: a vsock address, or the Unix socket that stands for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from geumgo.vsock._errors import AddressError

__all__ = (
    "CID_PARENT",
    "ENCLAVE_PORT",
    "HEARTBEAT_BYTE",
    "HEARTBEAT_PORT",
    "MAX_ADDRESS_TEXT",
    "VMADDR_CID_ANY",
    "VMADDR_CID_HOST",
    "VMADDR_CID_HYPERVISOR",
    "VMADDR_CID_LOCAL",
    "Address",
)

VMADDR_CID_ANY = 0xFFFFFFFF
VMADDR_CID_HYPERVISOR = 0
VMADDR_CID_LOCAL = 1
VMADDR_CID_HOST = 2
CID_PARENT = 3
"""The instance that launched a Nitro enclave, as the enclave sees it."""

ENCLAVE_PORT = 7007
"""Where the program inside an enclave serves its channel."""
HEARTBEAT_PORT = 9000
HEARTBEAT_BYTE = 0xB7
"""What an enclave's init sends to the parent, and expects back, once it runs."""

MAX_ADDRESS_TEXT = 512
"""Characters of an address's text: a Unix socket path has at most 107 bytes, so this is ample."""

_U32 = 0xFFFFFFFF
_NUMBER = re.compile(r"(?:0|[1-9][0-9]{0,9})\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a vsock connection goes.

    Attributes:
        cid: context id, 32 bits. A hybrid address has no CID of its own (the path names the enclave);
            it is set to `VMADDR_CID_ANY`, so that equal addresses compare equal.
        port: vsock port, 32 bits.
        uds: for hybrid vsock, the Unix socket of the enclave (absolute path).

    Raises:
        AddressError: a number is out of range or the path isn't absolute.
    """

    cid: int
    port: int
    uds: Path | None = None

    def __post_init__(self) -> None:
        for name, number in (("CID", self.cid), ("port", self.port)):
            if type(number) is not int or not 0 <= number <= _U32:
                raise AddressError(f"the vsock {name} is not a number of 32 bits", fix="Use 0 to 4294967295.")
        if self.uds is not None:
            path = Path(self.uds)
            if not path.is_absolute() or "\0" in str(path) or "\n" in str(path):
                raise AddressError(
                    "the path of a hybrid vsock socket is not absolute", fix="Write it from / on."
                )
            object.__setattr__(self, "uds", path)
            object.__setattr__(self, "cid", VMADDR_CID_ANY)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Return the address that `text` names: ``vsock:<cid>:<port>`` or ``hybrid:<path>:<port>``.

        Raises:
            AddressError: anything else.
        """
        scheme, _, rest = text.partition(":") if len(text) <= MAX_ADDRESS_TEXT else ("", "", "")
        place, _, port = rest.rpartition(":")
        if _NUMBER.match(port):
            if scheme == "vsock" and _NUMBER.match(place):
                return cls(int(place), int(port))
            if scheme == "hybrid" and place:
                return cls(VMADDR_CID_ANY, int(port), Path(place))
        raise AddressError(
            "the text is not a vsock address",
            fix="Write vsock:<cid>:<port>, for example vsock:16:7007, or hybrid:<path>:<port>.",
        )

    @classmethod
    def hybrid(cls, uds: Path, port: int) -> Address:
        """Return the address of `port` behind the hybrid vsock socket `uds`."""
        return cls(VMADDR_CID_ANY, port, uds)

    def __str__(self) -> str:
        if self.uds is not None:
            return f"hybrid:{self.uds}:{self.port}"
        return f"vsock:{self.cid}:{self.port}"
