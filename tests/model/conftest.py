"""The tally of what was compared is that of the live tests."""

from __future__ import annotations

from tests.live.conftest import tally

__all__ = ["tally"]
