"""A software Nitro Secure Module: production protocols, its own root, marked as a simulator throughout."""

from geumgo.testing.nsm.authority import AuthorityError, NsmAuthority
from geumgo.testing.nsm.service import serve_nsm
from geumgo.testing.nsm.software import SoftwareNsm, SoftwareNsmError

__all__ = ("AuthorityError", "NsmAuthority", "SoftwareNsm", "SoftwareNsmError", "serve_nsm")
