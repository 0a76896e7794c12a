"""A store in memory, shown as Maildirs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dboxfs.store import Kind
from tests.vfs.views.inside import InMaildir, maildir


@pytest.fixture
async def m(kind: Kind) -> AsyncIterator[InMaildir]:
    """INBOX with one message, Work with none."""
    async with maildir(kind) as made:
        yield made
