"""Modules that are else loaded on demand: with the rights of another user their files may be out of reach."""

from __future__ import annotations

import codecs
import importlib

_CODECS = ("unicode_escape", "utf-16-be")
_MODULES = ("dboxfs.store.deciphering",)


def load_late() -> None:
    """Load them, before the process or a thread of it takes the rights of another user."""
    for codec in _CODECS:
        codecs.lookup(codec)
    for module in _MODULES:
        importlib.import_module(module)
