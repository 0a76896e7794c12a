"""Each format, and a file system for stores that are in memory."""

from __future__ import annotations

import os

import pytest
from trio.testing import MockClock

from dboxfs.store import Kind


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each format."""
    found: Kind = request.param
    return found


@pytest.fixture
def jumping_clock() -> MockClock:
    """A clock that jumps once nothing happens any more, threads (which look users up) included."""
    return MockClock(autojump_threshold=0.05)


@pytest.fixture(autouse=True)
def on_the_root_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in memory lies on no file system of the machine: its room is that of ``/``."""
    found = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda path: found)
