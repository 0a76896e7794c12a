"""Messages of a listing as columns: the same as rows."""

from __future__ import annotations

import pytest

from dboxfs.vfs.listing import ListingBlock, ListingRow

ROWS = [
    ListingRow(3, b"1.eml", 7 << 32 | 1, 5 << 32, -1, -1_500_000_000, None),
    ListingRow(4, b"a letter", 7 << 32 | 2, 0, 1_600_000_000, 1_600_000_000_000_000_001, 0.0),
    ListingRow(9, b"n" * 240, 1 << 63 | 3, 1, 0, 0, 0.5),
]


def test_a_block_has_the_rows_that_it_was_made_of() -> None:
    assert list(ListingBlock.of_rows(ROWS)) == ROWS


@pytest.mark.parametrize(("start", "first"), [(0, 0), (2, 0), (3, 1), (4, 2), (8, 2), (9, 3), (10, 3)])
def test_a_block_is_read_on_from_any_offset(start: int, first: int) -> None:
    assert list(ListingBlock.of_rows(ROWS).from_offset(start)) == ROWS[first:]


def test_the_kernel_keeps_no_attributes_of_what_is_open_for_writing() -> None:
    block = ListingBlock.of_rows(ROWS)
    kept = [row.attr_timeout for row in block.with_open({ROWS[0].inode: 1, ROWS[2].inode: 1, 5: 1})]
    assert kept == [0.0, 0.0, 0.0]
    assert [row.attr_timeout for row in block.with_open({ROWS[2].inode: 1})] == [None, 0.0, 0.0]
    assert list(block) == ROWS, "the block itself stays, it is used again"
