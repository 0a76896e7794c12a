"""Which messages the kernel was given already."""

from __future__ import annotations

import numpy as np

from dboxfs.vfs.kernel_pages import BITS, Doubts, Pushed


def test_a_message_is_pushed_once_until_the_kernel_asks_for_it() -> None:
    pushed = Pushed()
    inode = 0x12345678 << 32 | 17
    assert pushed.first(inode)
    assert not pushed.first(inode)
    pushed.forget(inode)
    assert pushed.first(inode)


def test_messages_of_one_mailbox_do_not_share_bits() -> None:
    pushed = Pushed()
    base = 0x7FFFFFFF << 32
    assert all(pushed.first(base | uid) for uid in range(1, 100_001))


def test_memory_is_fixed() -> None:
    pushed = Pushed()
    for inode in range(3 * BITS, 3 * BITS + 1000):
        pushed.first(inode << 13)
    assert len(pushed._seen) == BITS


def test_a_doubt_is_settled_by_the_first_who_opens_the_message() -> None:
    doubts = Doubts()
    assert not doubts.settle(1 << 32, 7)
    doubts.raise_about(1 << 32, np.array([3, 7, 9], np.uint32))
    assert [doubts.settle(1 << 32, uid) for uid in (7, 7, 3)] == [True, False, True]
    assert not any(doubts.settle(1 << 32, uid) for uid in (8, 10, 2)), "there is no such message"
    assert not doubts.settle(2 << 32, 9), "another mailbox"
    doubts.raise_about(1 << 32, np.array([7], np.uint32))
    assert [doubts.settle(1 << 32, uid) for uid in (7, 9)] == [True, False]
    doubts.raise_about(1 << 32, np.array([7], np.uint32))
    doubts.forget(1 << 32)
    assert not doubts.settle(1 << 32, 7)
