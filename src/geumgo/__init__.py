"""Geumgo: enclaves for every pod."""

__all__ = ("__version__",)
__version__ = "0.1.0"
