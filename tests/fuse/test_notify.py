"""The thread that tells the kernel: in order, whatever the kernel answers, and to its end."""

from __future__ import annotations

import logging
import threading
import time

import pyfuse3
import pytest

from dboxfs.fuse.notify import Notifier

Sent = list[tuple[int, bytes | None, int]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    calls: Sent = []

    def inode(number: int, attr_only: bool = False) -> None:
        calls.append((number, None, 0))
        if number == 3:
            raise FileNotFoundError
        if number == 4:
            raise OSError(107, "not connected")
        if number == 5:
            raise RuntimeError("a bug")

    monkeypatch.setattr(pyfuse3, "invalidate_inode", inode)
    monkeypatch.setattr(
        pyfuse3, "invalidate_entry", lambda parent, name, deleted=0: calls.append((parent, name, deleted))
    )
    return calls


def test_what_whoever_gets_our_answer_shall_ask_for_is_told_at_once(sent: Sent) -> None:
    notifier = Notifier()  # without its thread
    notifier.at_once(7)
    notifier.at_once(3)  # unknown to the kernel
    notifier.at_once(4)  # no connection any more
    assert sent == [(7, None, 0), (3, None, 0), (4, None, 0)]


def wait_for(check: object) -> None:
    deadline = time.monotonic() + 5
    while callable(check) and not check():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_everything_is_sent_in_order_whatever_comes_back(
    sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier()
    notifier.attributes(1)
    notifier.start()
    for number in (3, 4, 5):
        notifier.attributes(number)
    notifier.entry(6, b"7.eml", 8)
    wait_for(lambda: len(sent) == 5)
    assert sent == [(1, None, 0), (3, None, 0), (4, None, 0), (5, None, 0), (6, b"7.eml", 8)]
    notifier.stop()
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [logging.ERROR]


def test_after_stop_nothing_more_is_sent(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(number: int, attr_only: bool = False) -> None:
        sent.append((number, None, 0))
        entered.set()
        leave.wait(5)

    monkeypatch.setattr(pyfuse3, "invalidate_inode", slow)
    notifier = Notifier()
    notifier.start()
    notifier.attributes(1)
    assert entered.wait(5)
    notifier.attributes(2)
    threading.Timer(0.05, leave.set).start()
    notifier.stop()
    assert leave.is_set()  # it waited for the call under way
    time.sleep(0.05)
    assert sent == [(1, None, 0)]


def test_a_notifier_that_never_started_stops() -> None:
    Notifier().stop()
