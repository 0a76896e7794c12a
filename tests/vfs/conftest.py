"""A store in memory for each test, sdbox and mdbox, mounted with ``rw``.

A test that sleeps asks for pytest-trio's ``autojump_clock`` itself, so that it doesn't take that time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from dboxfs.store import Kind
from tests.vfs.inside import Mounted, Program, mounted


@pytest.fixture(params=list(Kind), ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each format."""
    found: Kind = request.param
    return found


@pytest.fixture
async def m(kind: Kind) -> AsyncIterator[Mounted]:
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
