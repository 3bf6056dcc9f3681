"""What application developers import: verify evidence, seal a request, call an enclave.

from geumgo.client import Client
from geumgo.attestation import Policy, TrustRoots

with Client("https://gateway:8080", roots=TrustRoots.aws_nitro(), policy=policy, caller=key) as client:
    answer = client.call("deidentify", body, policy=compiled)
"""

from geumgo.client._async import IDEMPOTENT, AsyncClient, ClientSettings
from geumgo.client._sync import Client
from geumgo.client.errors import AnswerRejected, ClientError, FileError, GatewayError, Unreachable
from geumgo.client.files import FileResult, RejectedRow, process_file

__all__ = (
    "IDEMPOTENT",
    "AnswerRejected",
    "AsyncClient",
    "Client",
    "ClientError",
    "ClientSettings",
    "FileError",
    "FileResult",
    "GatewayError",
    "RejectedRow",
    "Unreachable",
    "process_file",
)
