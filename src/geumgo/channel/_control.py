"""Who holds the control role of a server.

Every pod of a node can dial an enclave's port; what the enclave itself opens (egress, logs, credentials)
goes to the one connection that holds this role: the first that asked, until it closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from geumgo.channel._connection import Connection

__all__ = ("ControlSlot",)


class ControlSlot:
    """The one control role of one server; pass the same object to every `Connection.accept`."""

    __slots__ = ("_holder",)

    def __init__(self) -> None:
        self._holder: Connection | None = None

    @property
    def holder(self) -> Connection | None:
        """The connection that has the role, if any is open."""
        holder = self._holder
        return None if holder is None or holder.closed else holder

    def claim(self, connection: Connection) -> bool:
        """Give the role to `connection` if nobody has it; return whether it has it now."""
        if self.holder is None:
            self._holder = connection
        return self._holder is connection

    def release(self, connection: Connection) -> None:
        """Take the role back from `connection` if it has it."""
        if self._holder is connection:
            self._holder = None

    def __repr__(self) -> str:
        return f"<ControlSlot {'free' if self.holder is None else 'taken'}>"
