"""A scan loses at most the message that is damaged, and takes nothing for a message that is none."""

from __future__ import annotations

import bz2

import pytest

from dboxfs.store.salvage import Found, Gap, MapPlace, Trust
from tests.store.salvage.files import HEADER, guid, record, sample, scan, text_of

SAMPLE = sample()
MAPS = pytest.mark.parametrize("places", [(), SAMPLE.places], ids=["without the map", "with the map"])


def trusted(data: bytes, items: list[Found | Gap]) -> list[bytes]:
    """The texts that would be shown as messages."""
    messages = [item for item in items if isinstance(item, Found)]
    return [text_of(data, m) for m in messages if m.trust < Trust.DAMAGED and not m.inside]


def assert_covers(data: bytes, items: list[Found | Gap]) -> None:
    """Every byte behind the header line belongs to one item."""
    at = items[0].offset
    for item in items:
        if isinstance(item, Found) and item.inside:
            continue
        assert item.offset == at
        at = item.end
    assert at == len(data)


@MAPS
@pytest.mark.parametrize("chunk", [64, 1 << 20])
async def test_a_healthy_file_is_read_exactly(places: tuple[MapPlace, ...], chunk: int) -> None:
    items = await scan(SAMPLE.data, places, chunk=chunk)
    messages = [item for item in items if isinstance(item, Found)]
    assert messages == items
    assert [MapPlace(m.offset, m.end - m.offset) for m in messages] == list(SAMPLE.places)
    assert [text_of(SAMPLE.data, m) for m in messages] == list(SAMPLE.texts)
    assert [m.guid.hex().encode() for m in messages if m.guid is not None] == [guid(n) for n in range(10)]
    assert {m.trust for m in messages} == {Trust.WHOLE}


@MAPS
@pytest.mark.parametrize("bit", [0x01, 0x08])
async def test_a_flipped_byte_costs_at_most_the_message_that_it_is_in(
    places: tuple[MapPlace, ...], bit: int
) -> None:
    for offset in range(len(SAMPLE.data)):
        data = bytearray(SAMPLE.data)
        data[offset] ^= bit
        items = await scan(bytes(data), places)
        found = trusted(bytes(data), items)
        others = SAMPLE.texts_beside(offset)
        assert others <= set(found), offset
        assert len(found) <= len(SAMPLE.texts), offset
        assert_covers(bytes(data), items[1:] if offset < len(HEADER) else items)


@MAPS
async def test_a_cut_anywhere_costs_only_what_is_cut(places: tuple[MapPlace, ...]) -> None:
    for size in range(len(HEADER), len(SAMPLE.data)):
        data = SAMPLE.data[:size]
        items = await scan(data, places)
        whole = [p for p in SAMPLE.places if p.offset + p.size <= size]
        nearly = [p for p in SAMPLE.places if p.offset < size < p.offset + p.size]
        found = [item for item in items if isinstance(item, Found)]
        assert [MapPlace(m.offset, m.end - m.offset) for m in found[: len(whole)]] == whole
        assert all(m.trust is Trust.WHOLE for m in found[: len(whole)]), size
        rest = [item for item in items[len(whole) :] if not (isinstance(item, Found) and item.inside)]
        assert len(rest) == len(nearly)
        for item in rest:  # the text may be there to its end, if only the metadata are cut
            if isinstance(item, Found) and item.trust < Trust.DAMAGED:
                assert text_of(data, item) == SAMPLE.texts[len(whole)]


@MAPS
async def test_nul_bytes_over_a_part_of_the_file(places: tuple[MapPlace, ...]) -> None:
    for start in range(0, len(SAMPLE.data), 37):
        data = bytearray(SAMPLE.data)
        data[start : start + 64] = bytes(len(data[start : start + 64]))
        found = trusted(bytes(data), await scan(bytes(data), places))
        beside = {
            text
            for place, text in zip(SAMPLE.places, SAMPLE.texts, strict=True)
            if place.offset + place.size <= start or place.offset >= start + 64
        }
        assert beside <= set(found), start


async def test_nuls_over_the_end_of_one_message_and_the_beginning_of_the_next_leave_a_part_of_both() -> None:
    first, second = b"first " * 40 + b"\n", b"second " * 40 + b"\n"
    one, other = record(1, first), record(2, second)
    data = bytearray(HEADER + one + other)
    nuls = range(len(HEADER) + 100, len(HEADER + one) + 100)
    data[nuls.start : nuls.stop] = bytes(len(nuls))
    items = await scan(bytes(data))
    assert_covers(bytes(data), items)
    found = [item for item in items if isinstance(item, Found)]
    assert [item.trust for item in found] == [Trust.DAMAGED] * 2
    assert text_of(bytes(data), found[0]) == first[: 100 - 30]
    assert text_of(bytes(data), found[1]) == second[100 - 30 :]
    assert [item.guid and item.guid.hex().encode() for item in found] == [None, guid(2)]


@pytest.mark.parametrize("number", range(len(SAMPLE.texts)))
async def test_a_text_whose_size_is_wrong_is_proven_by_its_metadata(number: int) -> None:
    place, data = SAMPLE.places[number], bytearray(SAMPLE.data)
    data[place.offset + 13 : place.offset + 29] = b"%016X" % 3
    items = await scan(bytes(data), SAMPLE.places)
    (found,) = [item for item in items if isinstance(item, Found) and item.offset == place.offset]
    assert (found.trust, found.end) == (Trust.REPAIRED, place.offset + place.size)
    assert text_of(bytes(data), found) == SAMPLE.texts[number]


async def test_garbage_between_and_behind_records_is_no_message() -> None:
    first, second = record(1, b"one\n"), record(2, b"two\n")
    data = HEADER + first + b"garbage" + second + b"more garbage"
    items = await scan(data)
    assert [type(item) for item in items] == [Found, Gap, Found, Gap]
    assert trusted(data, items) == [b"one\n", b"two\n"]
    assert (items[1].offset, items[1].end) == (len(HEADER + first), len(HEADER + first) + 7)


async def test_a_map_that_is_wrong_loses_nothing() -> None:
    wrong = tuple(MapPlace(place.offset + 7, place.size) for place in SAMPLE.places)
    items = await scan(SAMPLE.data, wrong)
    assert trusted(SAMPLE.data, items) == list(SAMPLE.texts)


async def test_a_single_dbox_file_has_one_message_whatever_is_in_it() -> None:
    text = SAMPLE.texts[3]
    data = HEADER + record(3, text)
    for offset in range(len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 0x10
        found = [item for item in await scan(bytes(damaged), single=True) if isinstance(item, Found)]
        assert len(found) <= 1, offset
    for behind in (b"garbage", data, bytes(4096)):
        items = await scan(data + behind, single=True)
        assert trusted(data + behind, items) == [text]
        assert [type(item) for item in items] == [Found, Gap]


async def test_files_without_a_message() -> None:
    assert await scan(b"") == [Gap(0, 0, "the file is empty")]
    assert await scan(HEADER) == []
    (head, rest) = await scan(bytes(8192))
    assert isinstance(head, Gap)
    assert isinstance(rest, Gap)
    for data in (b"2", b"2 M1", b"\n", b"\n\x01\x03\n", HEADER + b"\x01", HEADER + b"\x01\x02N "):
        assert trusted(data, await scan(data)) == []


@pytest.mark.parametrize("size", [-5, -1, 1, 300])
async def test_a_message_that_lost_or_got_bytes_gives_away_none_of_those_in_its_text(size: int) -> None:
    inner = HEADER + b"".join(record(50 + n, b"Subject: inner %d\n\ntext\n" % n) for n in range(3))
    texts = [
        b"Subject: first\n\none\n",
        b"Subject: with a file\n\n" + inner + b"\nend\n",
        b"Subject: last\n\nx\n",
    ]
    records = [record(number, text) for number, text in enumerate(texts)]
    data, places = HEADER, []
    for one in records:
        places.append(MapPlace(len(data), len(one)))
        data += one
    at = data.index(b"Subject: inner 1") + 8
    data = data[:at] + bytes(max(size, 0)) + data[at + max(-size, 0) :]
    items = await scan(data, tuple(places))
    assert trusted(data, items) == [texts[0], texts[2]]
    assert_covers(data, items)


async def test_coded_texts_are_found_behind_damage_and_in_it() -> None:
    secret = b"CRYPTED\x03\x07" + bytes(range(256))
    like = b"\x1f\x8b begins like a compressed one\n"
    packed = bz2.compress(b"words\n" * 50)
    records = [
        record(0, b"Subject: broken\n\n"),
        record(1, b"x" * 300, stored=secret),
        record(2, like),
        record(3, b"words\n" * 50, stored=packed),
    ]
    for victim in range(len(records)):
        damaged = [bytearray(one) for one in records]
        damaged[victim][20] ^= 0x40
        data = HEADER + b"".join(damaged)
        found = [item for item in await scan(data) if isinstance(item, Found)]
        stored = [data[m.body_offset : m.body_offset + m.body_size] for m in found]
        expected = [b"Subject: broken\n\n", secret, like, packed]
        assert stored[:victim] + stored[victim + 1 :] == expected[:victim] + expected[victim + 1 :]
        assert all(m.trust is Trust.WHOLE for at, m in enumerate(found) if at != victim)
        if victim != 1:  # nothing can prove a ciphertext
            assert (found[victim].trust, stored[victim]) == (Trust.REPAIRED, expected[victim])
