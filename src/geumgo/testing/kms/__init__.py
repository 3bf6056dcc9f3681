"""A KMS emulator: AWS KMS's API, key policies and attested decryption, over real HTTPS."""

from geumgo.testing.kms._app import ACCOUNT, REGION, StateError, create_app, read_audit
from geumgo.testing.kms._server import serve

__all__ = ("ACCOUNT", "REGION", "StateError", "create_app", "read_audit", "serve")
