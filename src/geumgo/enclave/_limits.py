"""Every number that bounds what a peer can cost the enclave, with its reason."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("MAX_CONFIGURATION_BYTES", "MAX_NONCE", "MIN_NONCE", "Limits")

MIN_NONCE = 16
"""Shortest nonce of an attest call: below 128 bits an old document could be answered again by chance."""
MAX_NONCE = 64
"""Longest nonce of an attest call: the device takes 512 bytes, no asker of ours needs more than 64."""
MAX_CONFIGURATION_BYTES = 1 << 20
"""Size of the measured configuration: some thousand callers; the file is trusted, the cap catches accidents."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one enclave lets its peers use at a time. Sizes in bytes, times in seconds."""

    connections: int = 128
    """Open channel connections: a gateway needs a few; every pod of a node can dial."""
    connection_window: int = 512 << 10
    """Bytes of short messages that one connection may have unread here: with all connections, 64 MiB."""
    streams: int = 8192
    """Open streams of all connections but the manager's, some 4 KiB each while they wait."""
    unread_bytes: int = 64 << 20
    """Bytes of answers that peers have not taken. Beyond it the connection on which nothing has moved for the
    longest time is closed; who leaves half of it lying gets no more work done."""
    in_flight: int = 2048
    """Requests admitted at a time; more get `busy`. Twice the 1,000 streams that one connection may carry."""
    in_flight_bytes: int = 64 << 20
    """Bytes of admitted requests: parsed records need several times their size and 512 MiB is a usual enclave."""
    arriving_bytes: int = 64 << 20
    """Bytes of long messages that are arriving, of all connections together; beyond, streams get `busy`."""
    open_body: int = 1 << 20
    """One unsealed message: everyone may send it."""
    open_growth: int = 20
    """How many of `in_flight_bytes` a byte of unsealed JSON counts for: what `[[],[],…` grows to when parsed."""
    sealed_growth: int = 6
    """The same for sealed JSON, of callers that are known: what a table of short values grows to, half of the
    worst. Ten batches of 1 MiB, or one of the largest, are worked on at a time."""
    read_ahead: int = 4
    """Messages of one stream that are worked on at a time: keeps both cores busy, bounds answers kept for order."""
    threads: int = 8
    """Threads for operations without `async`: they may wait for something, so there are more than cores."""
    inline_bytes: int = 16 << 10
    """Work of bodies up to this size (some 60 records) is done in the loop, which it holds for 5 to 15 ms;
    larger goes to the one thread for it, where passing the interpreter to and fro costs time (measured: 20
    records take 1.8 ms in the loop and 3.3 ms in a thread, 500 records the same in both)."""
    inline_seal: int = 256 << 10
    """Sealed messages up to this size are opened in the loop: at 1 GB/s they hold it for a quarter of a ms."""
    remembered_requests: int = 65_536
    """Ids of non-idempotent requests kept until their deadline, about 20 MiB; when full, `busy`."""
    remembered_per_caller: int = 16_384
    """How many of them one caller's may be, so that one gone bad leaves room for the others."""
    remembered_ahead: float = 3600.0
    """Furthest deadline of a non-idempotent request: its id must be remembered that long."""
    policies: int = 64
    """Parsed policies kept: a deployment has a handful."""
    data_keys: int = 1024
    """Unwrapped data keys kept, so that a batch costs one KMS call, not one a record."""
    data_key_age: float = 900.0
    """How long an unwrapped data key is used: a key that is disabled in the KMS stops working after this."""
    data_key_calls: int = 16
    """KMS calls at a time: each is an egress stream and a TLS handshake."""
    data_key_waiting: int = 1024
    """KMS calls that are waited for, also by requests that were given up; each holds a wrapped key of up to 6 KiB."""
    data_keys_per_request: int = 64
    """Different wrapped data keys in one request: each may cost a KMS call."""
    egress_streams: int = 32
    """Connections that the enclave asks of its parent at a time."""
    attest_waiting: int = 64
    """Attest calls that wait for the security module, which makes one document at a time."""
    attest_waiting_per_connection: int = 8
    """The same for one connection, so that a flood on one leaves room for the others."""
    attest_rate: float = 100.0
    """Documents a second that askers get; each signs with P-384 and copies a certificate chain."""
    attest_burst: int = 100
    """Documents that may be asked for at once after a quiet time."""
    log_queue: int = 1024
    """Events kept while nobody reads them; more are dropped and counted."""
    first_message: float = 10.0
    """Time for an opened stream's first message, whatever deadline the peer gave it."""
    credentials: float = 10.0
    """Time for the parent to hand out credentials."""
    kms: float = 20.0
    """Time for one KMS call, connection included."""
    connect: float = 10.0
    """Time for a connection's HELLO."""
    drain: float = 25.0
    """Time for requests in flight after `shutdown`; less than a pod's default 30 s."""
    farewell: float = 2.0
    """Time for answers and the last events to leave after that."""
    retry_first: float = 0.2
    """First pause before the pool key is asked for again."""
    retry_max: float = 15.0
    """Longest pause: a KMS that comes back is noticed soon, one that is down isn't drowned by a fleet."""
    clock_every: float = 600.0
    """Time between clock synchronisations: clocks inside drift by some seconds a week, 6 ms in 600 s."""
