"""The 1:1 manager: launches one enclave, supervises it, carries its bytes, and serves its API to the pod.

Its program is `python -m geumgo.manager`; nothing here is for other packages to import.
"""

__all__ = ()
