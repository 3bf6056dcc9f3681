"""1:N: the enclave API in front of all enclaves of a pod. Launches nothing."""

from geumgo.gateway._gateway import Gateway
from geumgo.gateway._server import ServeOptions, serve
from geumgo.gateway._settings import GatewaySettings

__all__ = ("Gateway", "GatewaySettings", "ServeOptions", "serve")
