"""Container images as input: stores, manifests, layers, merged in memory and never extracted."""

from geumgo.image._oci._limits import Limits
from geumgo.image._oci._manifest import Chosen, Platform, choose
from geumgo.image._oci._process import Process, process_of
from geumgo.image._oci._spool import Spool
from geumgo.image._oci._store import open_store
from geumgo.image._oci._tree import Tree, merge

__all__ = (
    "Chosen",
    "Limits",
    "Platform",
    "Process",
    "Spool",
    "Tree",
    "choose",
    "merge",
    "open_store",
    "process_of",
)
