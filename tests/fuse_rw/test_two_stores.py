"""One process that writes in two mounts at once: each close is the last one of its own mount's file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.live.dovecot import Dovecot
from tests.live.mounts import Mounts

ROUNDS = 20


@pytest.fixture
def two(dovecot: Dovecot, mounts: Mounts) -> tuple[Path, Path]:
    accounts = [dovecot.account("sdbox:{home}/mail"), dovecot.account("mdbox:{home}/mail")]
    for account in accounts:
        account.save(b"Subject: first\n\ntext\n")
    first, second = (mounts.mount(account.location, "rw") for account in accounts)
    return first / "INBOX", second / "INBOX"


def new(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_a_message_is_there_when_close_returns_whatever_is_open_elsewhere(two: tuple[Path, Path]) -> None:
    first, second = two
    for n in range(ROUNDS):
        ours, other = new(first / f"{n}"), new(second / f"{n}")
        os.write(ours, b"From: a\n\nx\n")
        os.close(ours)
        assert f"{n}" in os.listdir(first)
        os.close(other)


def test_a_refusal_is_heard_by_close_whatever_is_open_elsewhere(two: tuple[Path, Path]) -> None:
    first, second = two
    ours, other = new(first / "x"), new(second / "x")
    os.write(ours, b"\x1f\x8b\x08\x00From: a\n\nx\n")
    with pytest.raises(OSError, match="Invalid argument"):
        os.close(ours)
    assert os.listdir(first) == ["1.eml"]
    os.close(other)
