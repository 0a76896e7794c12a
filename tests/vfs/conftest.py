"""A store in memory for each test, sdbox and mdbox, mounted with ``rw``; the clock jumps."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio.testing

from dboxfs.store import Kind
from tests.vfs.inside import Mounted, Program, mounted


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each format."""
    found: Kind = request.param
    return found


@pytest.fixture
async def m(kind: Kind, autojump_clock: trio.testing.MockClock) -> AsyncIterator[Mounted]:
    """INBOX with one message, Work with none."""
    async with mounted(kind) as made:
        yield made


@pytest.fixture
def p(m: Mounted) -> Program:
    """A process that uses the mount."""
    return m.program()


@pytest.fixture
def q(m: Mounted) -> Program:
    """Another one."""
    return m.program()
