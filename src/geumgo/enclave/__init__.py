"""What runs inside an enclave: operations, and the program that serves them.

An application declares operations on an :class:`Enclave`; everything else is there already.
"""

from geumgo.enclave._errors import ConfigurationError, EnclaveError, Refused
from geumgo.enclave.app import Enclave, Operation
from geumgo.enclave.context import Context

__all__ = ("ConfigurationError", "Context", "Enclave", "EnclaveError", "Operation", "Refused")
