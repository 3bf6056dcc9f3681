"""A KMS emulator: AWS KMS's API, key policies and attested decryption, over real HTTPS.

What differs from AWS: one account and one region; symmetric single-Region keys of origin AWS_KMS only; no grants, tags,
rotation or ReEncrypt; no IAM policies, so what a key policy allows to the account it allows to every identity of the
account; a policy may name only operators and condition keys that the emulator knows, and a request only members that
it knows (AWS ignores those that it does not know); key material lies in a file of mode 0600, not in an HSM.
Attestation documents are accepted under the roots that were passed in, and no others.
"""

from geumgo.testing.kms._app import ACCOUNT, REGION, StateError, create_app, read_audit
from geumgo.testing.kms._server import serve

__all__ = ("ACCOUNT", "REGION", "StateError", "create_app", "read_audit", "serve")
