"""Says how many crash points a run went through."""

from __future__ import annotations

import pytest

POINTS = pytest.StashKey[dict[str, int]]()


@pytest.fixture
def points(pytestconfig: pytest.Config) -> dict[str, int]:
    """Crash points by scenario, over the whole session."""
    return pytestconfig.stash.setdefault(POINTS, {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    points = config.stash.get(POINTS, None)
    if points:
        for name, count in points.items():
            terminalreporter.write_line(f"crash points: {count:4d}  {name}")
        terminalreporter.write_line(f"crash points: {sum(points.values()):4d}  in all")
