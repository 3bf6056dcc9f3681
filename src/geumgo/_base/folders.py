"""Where a user's files go, also for a user who has no home folder, as in many containers."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path

from geumgo._base.errors import GeumgoError

__all__ = ("private_folder", "user_folder")


def user_folder(environment: Mapping[str, str], variable: str, below_home: str) -> Path:
    """Return the folder that an XDG variable names, else its place in the home folder.

    Where the home folder is unknown or can't be written, it is a place in :func:`private_folder` instead.

    Args:
        environment: the variables to look at.
        variable: such as XDG_CACHE_HOME.
        below_home: where it is without the variable, such as ".cache".

    Raises:
        GeumgoError: as :func:`private_folder`.
    """
    named = environment.get(variable, "")
    if os.path.isabs(named):  # the XDG specification says that a relative path is to be ignored
        return Path(named)
    try:
        home = Path(environment.get("HOME", "")).expanduser() if environment.get("HOME") else Path.home()
    except RuntimeError:  # no variable, and no account either
        return private_folder() / below_home
    wanted = home / below_home
    return wanted if _can_be_made(wanted) else private_folder() / below_home


def private_folder() -> Path:
    """Return a folder of this user for short-lived files, in the machine's temporary folder.

    Raises:
        GeumgoError: ``no_private_folder``: somebody else made it, or it can't be made.
    """
    folder = Path(tempfile.gettempdir()) / f"geumgo-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise GeumgoError(
            f"{folder} can't be made: {error.strerror}",
            fix="Set TMPDIR to a folder that you may write to.",
            code="no_private_folder",
        ) from None
    if found.st_uid != os.getuid() or found.st_mode & 0o077 or not stat.S_ISDIR(found.st_mode):
        # In a folder that everyone may write to, somebody could have put his own there first.
        raise GeumgoError(
            f"{folder} is not a private folder of this user",
            fix="Remove it, or set TMPDIR to a folder of yours.",
            code="no_private_folder",
        )
    return folder


def _can_be_made(folder: Path) -> bool:
    for place in (folder, *folder.parents):
        if place.exists():
            return place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    return False
