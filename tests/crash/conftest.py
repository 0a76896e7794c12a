"""Says how many crash points a run went through."""

from __future__ import annotations

import pytest

from tests import counted


@pytest.fixture
def points(pytestconfig: pytest.Config) -> dict[str, int]:
    """Crash points by scenario, over the whole session."""
    return counted.of(pytestconfig, "crash points")
