"""vsock: addresses, connecting and listening (AF_VSOCK and hybrid vsock over Unix sockets), relays."""

from geumgo.vsock._address import (
    CID_PARENT,
    ENCLAVE_PORT,
    HEARTBEAT_BYTE,
    HEARTBEAT_PORT,
    VMADDR_CID_ANY,
    VMADDR_CID_HOST,
    VMADDR_CID_HYPERVISOR,
    VMADDR_CID_LOCAL,
    Address,
)
from geumgo.vsock._dial import connect
from geumgo.vsock._errors import AddressError, ConnectFailed, HandshakeError, ListenFailed, VsockError
from geumgo.vsock._hybrid import HandOver, HybridServer
from geumgo.vsock._listen import Listener, listen
from geumgo.vsock._relay import RelayCounters, relay

__all__ = (
    "CID_PARENT",
    "ENCLAVE_PORT",
    "HEARTBEAT_BYTE",
    "HEARTBEAT_PORT",
    "VMADDR_CID_ANY",
    "VMADDR_CID_HOST",
    "VMADDR_CID_HYPERVISOR",
    "VMADDR_CID_LOCAL",
    "Address",
    "AddressError",
    "ConnectFailed",
    "HandOver",
    "HandshakeError",
    "HybridServer",
    "ListenFailed",
    "Listener",
    "RelayCounters",
    "VsockError",
    "connect",
    "listen",
    "relay",
)
