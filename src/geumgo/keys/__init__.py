"""Keys: sealed requests, the measured configuration, envelopes, the KMS client, the birth of a pool."""

from geumgo.keys._caller import CallerKey
from geumgo.keys._pool_key import SUITE, PoolKeyPair, PoolPublicKey
from geumgo.keys._purpose import PurposeKey
from geumgo.keys._seal import (
    MAX_DEADLINE_AHEAD_MS,
    AnswerOpener,
    OpenedRequest,
    Sealed,
    open_request,
    seal_answer,
    seal_failure,
    seal_request,
)
from geumgo.keys._sigv4 import Credentials
from geumgo.keys._stream import ByteStream, Dial, tcp_dial
from geumgo.keys._wire import MAX_BODY, MAX_DETAIL, MAX_POLICY, MAX_REQUEST, REQUEST_ID_SIZE, RoutingHeader
from geumgo.keys.configuration import (
    Caller,
    KeyGrant,
    KmsSettings,
    MeasuredConfiguration,
    Operation,
    WrappedKey,
)
from geumgo.keys.envelope import DataKey, Envelope, encrypt_field, open_envelope, parse_envelope
from geumgo.keys.errors import (
    AnswerError,
    ConfigurationError,
    EnvelopeError,
    KmsError,
    OperationFailed,
    PoolError,
    RecipientError,
    SealError,
)
from geumgo.keys.kms import KmsClient, Recipient
from geumgo.keys.pool import Finding, PoolMaterial, audit, create_pool, first_policy, release, release_policy
from geumgo.keys.recipient import generate_recipient_key, open_ciphertext_for_recipient, public_key_der

__all__ = (
    "MAX_BODY",
    "MAX_DEADLINE_AHEAD_MS",
    "MAX_DETAIL",
    "MAX_POLICY",
    "MAX_REQUEST",
    "REQUEST_ID_SIZE",
    "SUITE",
    "AnswerError",
    "AnswerOpener",
    "ByteStream",
    "Caller",
    "CallerKey",
    "ConfigurationError",
    "Credentials",
    "DataKey",
    "Dial",
    "Envelope",
    "EnvelopeError",
    "Finding",
    "KeyGrant",
    "KmsClient",
    "KmsError",
    "KmsSettings",
    "MeasuredConfiguration",
    "OpenedRequest",
    "Operation",
    "OperationFailed",
    "PoolError",
    "PoolKeyPair",
    "PoolMaterial",
    "PoolPublicKey",
    "PurposeKey",
    "Recipient",
    "RecipientError",
    "RoutingHeader",
    "SealError",
    "Sealed",
    "WrappedKey",
    "audit",
    "create_pool",
    "encrypt_field",
    "first_policy",
    "generate_recipient_key",
    "open_ciphertext_for_recipient",
    "open_envelope",
    "open_request",
    "parse_envelope",
    "public_key_der",
    "release",
    "release_policy",
    "seal_answer",
    "seal_failure",
    "seal_request",
    "tcp_dial",
)
