"""The thread that tells the kernel: what it sends, when, and what it never does."""

from __future__ import annotations

import ast
import logging
import os
import select
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyfuse3
import pytest
import trio
from msgspec.structs import replace

import dboxfs
from dboxfs.errors import MountError
from dboxfs.fuse import notify
from dboxfs.fuse.notify import Notifier
from dboxfs.store import Kind
from dboxfs.store.write import WriteOptions
from dboxfs.vfs.options import Entries, MountOptions, Opens, wants_companion

EPOCH = struct.pack("=IiQ", 16, 8, 0)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes whose attributes the kernel was told of."""
    calls: list[int] = []

    def inode(number: int, attr_only: bool = False) -> None:
        assert attr_only
        calls.append(number)
        if number == 3:
            raise FileNotFoundError
        if number == 4:
            raise OSError(107, "not connected")
        if number == 5:
            raise RuntimeError("a bug")

    monkeypatch.setattr(pyfuse3, "invalidate_inode", inode)
    return calls


@pytest.fixture
def device() -> Iterator[tuple[int, int]]:
    """Stands in for /dev/fuse: what is read from the first was written to the second."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def epochs(reader: int) -> int:
    try:
        data = os.read(reader, 1 << 16)
    except BlockingIOError:
        return 0
    assert data == EPOCH * (len(data) // len(EPOCH))
    return len(data) // len(EPOCH)


def wait_for(check: object) -> None:
    deadline = time.monotonic() + 5
    while callable(check) and not check():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_attributes_are_sent_in_order_whatever_comes_back(
    sent: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier()
    notifier.attributes(1)
    notifier.start()
    for number in (3, 4, 5, 6):
        notifier.attributes(number)
    wait_for(lambda: len(sent) == 5)
    assert sent == [1, 3, 4, 5, 6]
    notifier.stop()
    assert [record.levelno for record in caplog.records if record.levelno > logging.INFO] == [logging.ERROR]


def test_after_stop_nothing_more_is_sent(sent: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(number: int, attr_only: bool = False) -> None:
        sent.append(number)
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
    assert sent == [1]


def test_what_whoever_gets_our_answer_shall_ask_for_is_told_at_once(sent: list[int]) -> None:
    notifier = Notifier()  # without its thread
    notifier.at_once(7)
    notifier.at_once(3)  # unknown to the kernel
    notifier.at_once(4)  # no connection any more
    assert sent == [7, 3, 4]


def test_a_notifier_that_never_started_stops() -> None:
    Notifier().stop()


def test_a_batch_of_names_is_one_epoch(sent: list[int], device: tuple[int, int]) -> None:
    reader, writer = device
    notifier = Notifier()
    notifier.choose(Entries.EPOCH, writer, None, None)
    assert epochs(reader) == 1, "the first one finds out whether the kernel takes it"
    notifier._last = 0.0
    for number in range(1000):
        notifier.entry(7, b"%d.eml" % number, number)
        notifier.attributes(number + 10)
    notifier.start()
    wait_for(lambda: len(sent) == 1000)
    notifier.stop()
    assert epochs(reader) == 1


def test_names_that_change_all_the_time_make_few_epochs(
    device: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = device
    notifier = Notifier()
    notifier.choose(Entries.AUTO, writer, None, None)
    notifier.start()
    end = time.monotonic() + 4 * notify.EPOCH_SECONDS
    while time.monotonic() < end:
        notifier.entry(7, b"1.eml")
    notifier.stop()
    assert 2 <= epochs(reader) <= 1 + 5


def test_a_change_is_in_an_epoch_that_comes_after_it(device: tuple[int, int]) -> None:
    """Never is one dropped because another was about to be sent."""
    reader, writer = device
    notifier = Notifier()
    notifier.choose(Entries.EPOCH, writer, None, None)
    notifier.start()
    for _ in range(20):
        epochs(reader)
        notifier.entry(7, b"1.eml")
        assert select.select([reader], [], [], 5)[0]
    notifier.stop()


async def test_who_waits_for_a_name_need_not_wait_for_the_thread(device: tuple[int, int]) -> None:
    reader, writer = device
    notifier = Notifier()
    notifier.choose(Entries.EPOCH, writer, None, None)
    epochs(reader)
    await notifier.now(7, b"1.eml")
    assert epochs(reader) == 1


async def test_a_descriptor_is_not_written_to_once_it_may_be_another_file(device: tuple[int, int]) -> None:
    reader, writer = device
    notifier = Notifier()
    notifier.choose(Entries.EPOCH, writer, None, None)
    notifier.start()
    epochs(reader)
    notifier.stop()
    notifier.entry(7, b"1.eml")
    await notifier.now(7, b"1.eml")
    assert epochs(reader) == 0


def test_without_epochs_and_companion_the_kernel_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with select.epoll() as refuses:  # EINVAL, as the kernel answers to notifications that it doesn't know
        notifier = Notifier()
        notifier.choose(Entries.AUTO, refuses.fileno(), None, None)
        assert notifier.means is Entries.TIMEOUT
        for entries in (Entries.EPOCH, Entries.COMPANION):
            with pytest.raises(MountError, match=f"entries={entries.value}"):
                Notifier().choose(entries, refuses.fileno(), None, None)


@pytest.mark.parametrize("entries", [Entries.EPOCH, Entries.TIMEOUT])
def test_the_kernel_remembers_missing_names_only_where_an_epoch_makes_them_stale(
    device: tuple[int, int], entries: Entries
) -> None:
    notifier = Notifier()
    assert not notifier.keeps_missing
    notifier.choose(entries, device[1], None, None)
    assert notifier.keeps_missing is (entries is Entries.EPOCH)


async def test_timeouts_send_nothing(device: tuple[int, int]) -> None:
    reader, writer = device
    notifier = Notifier()
    notifier.choose(Entries.TIMEOUT, writer, None, None)
    notifier.start()
    notifier.entry(7, b"1.eml")
    with trio.fail_after(notify.ANSWER_SECONDS / 2):
        await notifier.now(7, b"1.eml")
    notifier.stop()
    assert epochs(reader) == 0


@pytest.mark.parametrize(
    ("release", "wanted"),
    [("6.1.0-18-amd64", True), ("6.12.48+deb13-amd64", True), ("6.15.11", True), ("6.16.0", False),
     ("6.18.44-fc", False), ("7.0-rc1", False), ("5.14.21-150500.55.7-default", True)],
)  # fmt: skip
def test_a_companion_is_forked_where_the_kernel_has_no_epochs(
    monkeypatch: pytest.MonkeyPatch, release: str, wanted: bool
) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", release, "", "")))
    classic = MountOptions(opens=Opens.CLASSIC)
    for kind in Kind:
        assert wants_companion(classic, kind) is wanted
        assert wants_companion(replace(classic, entries=Entries.COMPANION), kind)
        assert not wants_companion(replace(classic, entries=Entries.EPOCH), kind)
        assert not wants_companion(replace(classic, entries=Entries.TIMEOUT), kind)
        assert wants_companion(MountOptions(opens=Opens.NONE), kind)
        assert wants_companion(MountOptions(write=WriteOptions()), kind) is wanted
    assert wants_companion(MountOptions(), Kind.MDBOX)
    assert wants_companion(MountOptions(), Kind.SDBOX) is wanted


def test_no_part_of_the_daemon_makes_a_call_that_waits_for_a_lock_of_a_client() -> None:
    """By construction: entries are nobody's but the companion's, pages only those of directories, and bytes
    are pushed in one place.  (The pusher waits for READs, with a companion that ends the connection of a
    daemon that is killed meanwhile.)
    """
    calls = []
    root = Path(dboxfs.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name, where = node.func.attr, str(path.relative_to(root))
                if name == "invalidate_inode":
                    (attr_only,) = [word.value for word in node.keywords if word.arg == "attr_only"]
                    calls.append((where, name, ast.unparse(attr_only)))
                elif name.startswith("invalidate_entry") or name == "notify_store":
                    calls.append((where, name, ""))
    assert sorted(calls) == [
        ("fuse/notify.py", "invalidate_inode", "True"),
        ("fuse/notify.py", "invalidate_inode", "attr_only"),
        ("fuse/notify.py", "notify_store", ""),
    ]
