"""The emulator's memory: one SQLite file. What a call changed and the record of the call are one transaction."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geumgo._base import GeumgoError

__all__ = ("MAX_EVENTS", "KeyRecord", "StateError", "Store")

MAX_EVENTS = 100_000
"""Records kept; about 100 MB. Those of CreateKey and PutKeyPolicy are never dropped: the audit needs them."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, material BLOB NOT NULL, policy TEXT NOT NULL, state TEXT NOT NULL,
    description TEXT NOT NULL, created_ms INTEGER NOT NULL, deletion_ms INTEGER
) STRICT;
CREATE TABLE IF NOT EXISTS aliases (
    name TEXT PRIMARY KEY, key_id TEXT NOT NULL REFERENCES keys (id) ON DELETE CASCADE, created_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, keep INTEGER NOT NULL, record TEXT NOT NULL
) STRICT;
"""

_COLUMNS = "id, material, policy, state, description, created_ms, deletion_ms"


class StateError(GeumgoError):
    """Raised when the state folder can't be used."""

    code = "bad_state"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One KMS key. `state` is AWS's KeyState."""

    key_id: str
    material: bytes
    policy: str
    state: str
    description: str
    created_ms: int
    deletion_ms: int | None

    def __repr__(self) -> str:
        return f"KeyRecord({self.key_id!r}, {self.state})"


class Store:
    """Keys, aliases and events.

    Args:
        path: the database file; made with mode 0600.

    Raises:
        StateError: it can't be opened, or is no database.
    """

    def __init__(self, path: Path) -> None:
        try:
            # sqlite3 would make the file with the umask's mode, and its journal takes the file's mode.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            path.chmod(0o600)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self._prepare()
            except BaseException:
                self._db.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise StateError(
                f"{path.name} can't be used as the emulator's database ({type(error).__name__})",
                fix="Give a folder that can be written; remove the file if it is damaged, and its keys with it.",
            ) from None

    def _prepare(self) -> None:
        # FULL: a key that was answered for is on the disk, whatever happens next. secure_delete: a deleted key is gone.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON"):
            self._db.execute(f"PRAGMA {pragma}").fetchall()
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make everything inside happen as a whole, or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def meta(self, name: str, default: str) -> str:
        """Return a setting of the database, stored at first use so that it never changes."""
        self._db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, default))
        row = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(row[0])

    def add_key(self, key: KeyRecord) -> None:
        """Add a key."""
        self._db.execute(
            f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                key.key_id,
                key.material,
                key.policy,
                key.state,
                key.description,
                key.created_ms,
                key.deletion_ms,
            ),
        )

    def key(self, key_id: str) -> KeyRecord | None:
        """Return a key."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM keys WHERE id = ?", (key_id,)).fetchone()
        return None if row is None else KeyRecord(*row)

    def key_ids(self, after: str, limit: int) -> list[str]:
        """Return up to `limit` key ids that sort after `after`."""
        rows = self._db.execute("SELECT id FROM keys WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        return [row[0] for row in rows]

    def set_policy(self, key_id: str, policy: str) -> None:
        """Replace a key's policy."""
        self._db.execute("UPDATE keys SET policy = ? WHERE id = ?", (policy, key_id))

    def set_state(self, key_id: str, state: str, deletion_ms: int | None) -> None:
        """Change a key's state."""
        self._db.execute(
            "UPDATE keys SET state = ?, deletion_ms = ? WHERE id = ?", (state, deletion_ms, key_id)
        )

    def delete_due(self, now_ms: int) -> None:
        """Delete the keys whose waiting period is over, with their aliases."""
        self._db.execute("DELETE FROM keys WHERE deletion_ms <= ?", (now_ms,))

    def add_alias(self, name: str, key_id: str, now_ms: int) -> bool:
        """Add an alias; return False where the name is taken."""
        cursor = self._db.execute("INSERT OR IGNORE INTO aliases VALUES (?, ?, ?)", (name, key_id, now_ms))
        return cursor.rowcount == 1

    def delete_alias(self, name: str) -> None:
        """Remove an alias."""
        self._db.execute("DELETE FROM aliases WHERE name = ?", (name,))

    def alias(self, name: str) -> str | None:
        """Return the id of the key that an alias names."""
        row = self._db.execute("SELECT key_id FROM aliases WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def aliases(self, key_id: str | None, after: str, limit: int) -> list[tuple[str, str, int]]:
        """Return up to `limit` aliases (name, key id, created) that sort after `after`."""
        return self._db.execute(
            "SELECT name, key_id, created_ms FROM aliases WHERE name > ? AND (? IS NULL OR key_id = ?) "
            "ORDER BY name LIMIT ?",
            (after, key_id, key_id, limit),
        ).fetchall()

    def add_event(self, record: Mapping[str, Any], *, keep: bool) -> None:
        """Record a call; drop the oldest records over `MAX_EVENTS` that may go."""
        text = json.dumps(record, separators=(",", ":"))
        cursor = self._db.execute("INSERT INTO events (keep, record) VALUES (?, ?)", (keep, text))
        newest = cursor.lastrowid or 0
        if newest % 1000 == 0:
            self._db.execute("DELETE FROM events WHERE keep = 0 AND id <= ?", (newest - MAX_EVENTS,))

    def events(self) -> list[dict[str, Any]]:
        """Return the records, oldest first."""
        rows = self._db.execute("SELECT record FROM events ORDER BY id")
        return [json.loads(row[0]) for row in rows]
