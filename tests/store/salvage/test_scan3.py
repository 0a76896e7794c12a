"""Format 3: a scan loses at most the message that is damaged, and says of each text whether it is whole."""

from __future__ import annotations

import gzip

import pytest

from dboxfs.store.salvage import Found, Gap, Trust
from tests.dbox.golden3 import file_of, separator
from tests.store.salvage.files import scan

BODIES = [
    b"Subject: one\n\ntext\n",
    b"",
    b"\x1f\x8b begins like gzip and is none",
    b"an attached file of format 3:\n" + file_of([b"inner one\n", b"inner two\n"])[0] + b"end\n",
    gzip.compress(b"a gzip file sent as it is\n", mtime=0),
    b"\x01\x02" + separator(77) + b"\n\x01\x03" + separator(77) + b"\n\n",
    b"last\n",
]
DATA, PLACES = file_of(BODIES)
OFFSETS, ENDS = PLACES[:-1], PLACES[1:]


def texts(data: bytes, items: list[Found | Gap], *, inside: bool = False) -> list[bytes]:
    """The stored texts of all messages to be shown; *inside*: and of those that an index must know."""
    messages = [item for item in items if isinstance(item, Found) and item.trust < Trust.DAMAGED]
    shown = [m for m in messages if inside or not m.inside]
    return [data[m.body_offset : m.body_offset + m.body_size] for m in shown]


@pytest.mark.parametrize("chunk", [64, 1 << 20])
async def test_a_healthy_file_is_read_exactly(chunk: int) -> None:
    items = await scan(DATA, chunk=chunk)
    assert texts(DATA, items) == BODIES
    assert [(item.offset, item.end) for item in items] == list(zip(OFFSETS, ENDS, strict=True))
    assert all(isinstance(item, Found) and item.trust is Trust.WHOLE for item in items)
    assert all(isinstance(item, Found) and item.version == 3 for item in items)


async def test_a_flipped_byte_costs_at_most_its_message_and_is_always_noticed() -> None:
    for offset in range(len(DATA)):
        data = bytearray(DATA)
        data[offset] ^= 0x04
        items = await scan(bytes(data))
        beside = [
            body for body, start, end in zip(BODIES, OFFSETS, ENDS, strict=True) if not start <= offset < end
        ]
        found = texts(bytes(data), items)
        assert [body for body in found if body in beside] == beside, offset
        assert set(found) <= set(BODIES), offset
        if offset >= OFFSETS[0]:
            wrong = [i for i in items if isinstance(i, Gap) or i.trust is not Trust.WHOLE]
            start = max(start for start in OFFSETS if start <= offset)
            end = min(end for end in ENDS if end > offset)
            assert wrong, offset
            assert all(start <= i.offset < i.end <= end for i in wrong), offset


async def test_a_cut_anywhere_costs_only_what_is_cut() -> None:
    for size in range(OFFSETS[0], len(DATA)):
        items = await scan(DATA[:size])
        whole = [body for body, end in zip(BODIES, ENDS, strict=True) if end <= size]
        found = texts(DATA[:size], items)
        assert found[: len(whole)] == whole
        assert len(found) <= len(whole) + 1
        if len(found) > len(whole):  # only its trailer is cut, and its CRC-32 is still there
            assert found[-1] == BODIES[len(whole)]
        assert all(item.end <= size for item in items)


async def test_a_damaged_trailer_whose_checksum_is_there_proves_the_text() -> None:
    data = bytearray(DATA)
    at = DATA.index(b"\nH", OFFSETS[0]) + 5  # the tag
    data[at] ^= 1
    (first, *_) = await scan(bytes(data))
    assert isinstance(first, Found)
    assert (first.trust, first.body_size) == (Trust.REPAIRED, len(BODIES[0]))


@pytest.mark.parametrize("where", [3, OFFSETS[0] + 25, OFFSETS[3] + 60])
async def test_records_behind_lost_or_inserted_bytes_are_proven_by_their_checksums(where: int) -> None:
    behind = [body for body, start in zip(BODIES, OFFSETS, strict=True) if start > where]
    for data in (DATA[:where] + b"xyz" + DATA[where:], DATA[:where] + DATA[where + 3 :]):
        found = texts(data, await scan(data), inside=True)
        assert found[-len(behind) :] == behind


async def test_a_dbox_file_in_a_text_gives_no_message_even_if_that_is_damaged() -> None:
    start, end = OFFSETS[3], ENDS[3]
    data = bytearray(DATA)
    data[start : start + 19] = bytes(19)
    data[end - 60 : end] = bytes(60)
    items = await scan(bytes(data))
    assert texts(bytes(data), items) == BODIES[:3] + BODIES[4:]
