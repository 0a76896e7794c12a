"""What keeps a bench from running."""

from __future__ import annotations


class BenchError(Exception):
    """Something that the bench needs is missing or failed; the text is one line for the user."""
