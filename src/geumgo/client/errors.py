"""What a client raises.

GeumgoError
 └ ClientError
    ├ GatewayError      a gateway or enclave answered with an error code
    ├ Unreachable       nobody answered before the deadline
    ├ AnswerRejected    an answer came that the enclave did not make for this request
    └ FileError         an input or output file can't be used
"""

from __future__ import annotations

from geumgo._base import CODES, GeumgoError

__all__ = ("AnswerRejected", "ClientError", "FileError", "GatewayError", "Unreachable")


class ClientError(GeumgoError):
    """Raised when a call from this client can't be completed."""

    code = "client"


class GatewayError(ClientError):
    """Raised when a gateway or an enclave answered with an error code.

    The code stands outside the seal, so it is a hint: whoever runs the gateway could have made it up.
    """

    def __init__(self, code: str, *, retryable: bool, where: str, retry_after: float | None = None) -> None:
        known = CODES.get(code)
        title = known.title if known else "The gateway answered with a code that this client does not know"
        repeat = "The same call may be repeated." if retryable else "Repeating the same call will not help."
        super().__init__(
            f"{title} ({where})", why=repeat, fix=_FIXES.get(code, _FIX), code=code, retryable=retryable
        )
        self.retry_after = retry_after


class Unreachable(ClientError):
    """Raised when no gateway answered before the deadline."""

    code = "unavailable"
    retryable = True


class AnswerRejected(ClientError):
    """Raised when an answer does not open: it was changed, swapped or made by somebody else."""

    code = "answer_rejected"


class FileError(ClientError):
    """Raised when an input or output file can't be used."""

    code = "file"


_FIXES = {
    "malformed": "Somebody changed the request on its way, or this client's version is not the enclave's.",
    "invalid_request": "Compare the request with what the operation takes: GET /v1/enclaves names them.",
    "bad_policy": "Compile the policy again with this version's client.",
    "too_large": "Send smaller batches.",
    "not_found": "Is this the address of a gateway or manager, without a path?",
    "unknown_operation": "GET /v1/enclaves lists the operations.",
    "unknown_caller": "Is this caller's public key in the measured configuration of the image that is running?",
    "forbidden": "The measured configuration lists what each caller may do; a change there is a new image.",
    "seal_required": "Call it through a client with a caller's key, which seals the request.",
    "reattest": "The pool changed again meanwhile, or somebody says so: call again, and look who answers there.",
    "duplicate": "It was carried out, or was begun: look at its effect before you send it as a new request.",
    "deadline_exceeded": "Give the call more time, send smaller batches, or add enclaves.",
    "cancelled": "Call again if the answer is still wanted.",
    "busy": "Send fewer requests at a time, or add gateways and enclaves.",
    "starting": "Wait until the enclave has its key; `geumgo ps` shows why it has not.",
    "draining": "Name several gateways, so that another one answers.",
    "unavailable": "Is an enclave running? `geumgo ps` shows it.",
    "keys_unavailable": "Is the key service reachable, and does the key's policy name this image's PCRs?",
    "operation_failed": "The enclave's log names the operation and the kind of error.",
    "internal": "The logs of gateway and manager say more; the request's id stands there too.",
}
_FIX = "Use a client of the gateway's version."
