"""Which messages the kernel was given already."""

from __future__ import annotations

from dboxfs.fuse.pushed import BITS, Pushed


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
