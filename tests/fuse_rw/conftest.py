"""The writable mount that these tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse_rw.rw import Writable
from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts


@pytest.fixture
def rw(dovecot: Dovecot, mounts: Mounts, tmp_path: Path, driver: str) -> Iterator[Writable]:
    """A writable mount; in the end Dovecot and a repair agree with what is in it."""
    made = Writable.make(dovecot, mounts, tmp_path, driver)
    yield made
    made.settled()
