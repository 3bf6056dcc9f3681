"""The errors of images: one class a kind of file, one root for all."""

from __future__ import annotations

from geumgo._base import GeumgoError

__all__ = ("BuildError", "CpioError", "EifError", "ImageError", "LockError", "SigningError", "Unavailable")


class ImageError(GeumgoError):
    """Raised when an image can't be read, written or built."""

    code = "bad_image"


class EifError(ImageError):
    """Raised when bytes are not one well-formed Enclave Image File."""

    code = "bad_eif"


class CpioError(ImageError):
    """Raised when a ramdisk is not a newc archive, or holds what must not be unpacked."""

    code = "bad_ramdisk"


class BuildError(ImageError):
    """Raised when an image can't be built from what was given."""

    code = "image_build"


class LockError(ImageError):
    """Raised when the lock file is malformed or has nothing for this architecture."""

    code = "bad_lock"


class SigningError(ImageError):
    """Raised when a certificate, key or signature can't be used to sign an image."""

    code = "image_signing"


class Unavailable(BuildError):
    """Raised when a locked file can't be had on this machine; the host's files may stand in for it."""

    code = "base_unavailable"
