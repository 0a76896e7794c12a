"""One process that starts daemons, and the count of the points that they were made to fail at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import counted
from tests.live.dovecot import Dovecot
from tests.through.changes import Workshop, files
from tests.through.daemons import Daemons


@pytest.fixture(scope="session")
def daemons() -> Iterator[Daemons]:
    with Daemons() as made:
        yield made


@pytest.fixture
def workshop(dovecot: Dovecot, daemons: Daemons, tmp_path: Path) -> Workshop:
    return Workshop(dovecot, daemons, files(tmp_path / "files"))


@pytest.fixture
def through(pytestconfig: pytest.Config) -> dict[str, int]:
    """Points through the mount by kind, over the whole session."""
    return counted.of(pytestconfig, "through the mount")
