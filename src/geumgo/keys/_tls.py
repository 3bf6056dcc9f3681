"""TLS over a byte stream, ended here: whoever relays the bytes sees ciphertext only."""

from __future__ import annotations

import ssl

from geumgo.keys._stream import ByteStream
from geumgo.keys.errors import KmsError

__all__ = ("TlsStream", "client_context")

READ_SIZE = 16 << 10
"""Bytes taken out of TLS at once, the size of a record."""


def client_context(ca_pem: str | None) -> ssl.SSLContext:
    """Return a context that trusts `ca_pem` only, or the system's authorities where it is None or empty.

    Raises:
        KmsError: ``kms_tls``: `ca_pem` holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Python before 3.11.4, Debian 12's among them, takes a connection that was cut off for a proper end.
    context.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)  # OpenSSL 3 has it
    if not ca_pem:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return context
    try:
        context.load_verify_locations(cadata=ca_pem)
    except (ssl.SSLError, ValueError):
        raise KmsError("the key service's CA is not a certificate in PEM", code="kms_tls") from None
    return context


class TlsStream:
    """The client's side of one TLS connection.

    Raises:
        KmsError: ``invalid_kms_request``: `host` is no name that a certificate could have.
    """

    def __init__(self, stream: ByteStream, context: ssl.SSLContext, host: str) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        except ValueError:
            raise KmsError("the key service's host name is not a name", code="invalid_kms_request") from None

    async def handshake(self) -> None:
        """Shake hands and check the server's certificate and name.

        Raises:
            KmsError: ``kms_tls``.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLCertVerificationError as error:
                await self._flush_quietly()
                raise KmsError(
                    f"the key service's certificate is not trusted ({error.verify_message})",
                    why="Something else may answer in its place; nothing was sent to it.",
                    fix="Its CA and its host name must be those of the measured configuration.",
                    code="kms_tls",
                ) from None
            except ssl.SSLError as error:
                raise _tls_failed(error) from None
            else:
                await self._flush()
                return

    async def send(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise _tls_failed(error) from None
        await self._flush()

    async def receive(self) -> bytes:
        """Return the next bytes, empty when the server closed properly.

        Raises:
            KmsError: ``kms_tls``, also where the stream was cut off.
        """
        while True:
            try:
                return self._tls.read(READ_SIZE)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLZeroReturnError:
                return b""
            except ssl.SSLError as error:
                raise _tls_failed(error) from None

    async def _fill(self) -> None:
        data = await self._stream.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if data := self._outgoing.read():
            await self._stream.send(data)

    async def _flush_quietly(self) -> None:
        """Send the alert that says why we leave; the reason is raised whether or not it arrives."""
        try:
            await self._flush()
        except Exception:  # the certificate's error is what matters
            return


def _tls_failed(error: ssl.SSLError) -> KmsError:
    return KmsError(
        f"TLS with the key service failed ({error.reason or type(error).__name__})",
        code="kms_tls",
        retryable=True,
    )
