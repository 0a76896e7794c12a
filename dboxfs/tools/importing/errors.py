"""The error that refuses an import."""

from __future__ import annotations

from dboxfs.errors import NoSuchStore


class NoSource(NoSuchStore):
    """SOURCE is missing, unreadable, or none of the formats that can be imported."""
