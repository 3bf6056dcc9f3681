"""The enclave API's edges, shared by manager and gateway: HTTP, problem documents, metrics, logs, settings.

gRPC is in :mod:`geumgo.api.grpc_edge`, which is not imported here: it costs 27 MB, and a manager has no use for it.
"""

from geumgo.api._backend import Attested, Backend, Call
from geumgo.api._budget import ByteBudget
from geumgo.api._enclave import (
    Description,
    EnclaveAnswerError,
    Operation,
    ask_attest,
    ask_call,
    ask_describe,
    ask_stream,
)
from geumgo.api._errors import ApiError, Problem
from geumgo.api._http_routes import NONCE_SIZES, OPERATION_NAME, SEALED_TYPE, USES
from geumgo.api._http_server import HttpServer, ListenError
from geumgo.api._log import JsonLog, configure_logging
from geumgo.api._metrics import EdgeMetrics
from geumgo.api._settings import ApiSettings, SettingsError, settings_from_environment

__all__ = (
    "NONCE_SIZES",
    "OPERATION_NAME",
    "SEALED_TYPE",
    "USES",
    "ApiError",
    "ApiSettings",
    "Attested",
    "Backend",
    "ByteBudget",
    "Call",
    "Description",
    "EdgeMetrics",
    "EnclaveAnswerError",
    "HttpServer",
    "JsonLog",
    "ListenError",
    "Operation",
    "Problem",
    "SettingsError",
    "ask_attest",
    "ask_call",
    "ask_describe",
    "ask_stream",
    "configure_logging",
    "settings_from_environment",
)
