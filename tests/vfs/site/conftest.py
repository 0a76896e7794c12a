"""Each format, and a file system for stores that are in memory."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from dboxfs.store import Kind


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each format."""
    found: Kind = request.param
    return found


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """A clock that jumps once nothing happens any more, threads (which look users up) included."""
    clock, run_sync, running = MockClock(autojump_threshold=0), trio.to_thread.run_sync, 0

    async def awaited(*args: Any, **options: Any) -> Any:
        nonlocal running
        running += 1
        clock.autojump_threshold = math.inf
        try:
            return await run_sync(*args, **options)
        finally:
            running -= 1
            if not running:
                clock.autojump_threshold = 0

    monkeypatch.setattr(trio.to_thread, "run_sync", awaited)
    return clock


@pytest.fixture(autouse=True)
def on_the_root_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store in memory lies on no file system of the machine: its room is that of ``/``."""
    found = os.statvfs("/")
    monkeypatch.setattr(os, "statvfs", lambda path: found)
