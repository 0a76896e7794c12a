"""However a file is made, a scan of it takes at most three times the work of one of a file without damage and
as large, and loses nothing that is whole.
"""

from __future__ import annotations

import pytest
import trio

from dboxfs.store.salvage import Found, Gap, Trust, search
from tests.dbox.golden3 import file_of
from tests.store.salvage.files import HEADER, record, sample, scan, text_of
from tests.store.salvage.lookalikes import BODIES, BODIES_3, FILES, blocks_that_fit, each, whole
from tests.store.salvage.work import counted_scan

SIZE = 2 << 20
MOST = 3


def hopeless(text: bytes) -> bytes:
    """A record of which nothing proves the text: its header and its V are damaged."""
    data = bytearray(record(1, text))
    data[data.rindex(b"\nV") + 2] = ord("z")
    data[20] ^= 0x40
    return bytes(data)


def without_damage(size: int) -> bytes:
    """A file of small messages, of at least *size* bytes."""
    one = len(record(1, text_of_number(1)))
    return HEADER + b"".join(record(n, text_of_number(n)) for n in range(1, size // one + 2))


def text_of_number(n: int) -> bytes:
    return b"Subject: %08d\n\n" % n + b"x" * 40


@pytest.fixture(scope="module")
def floor() -> float:
    """The work of a scan of a file without damage, a byte of it."""
    data = without_damage(SIZE)
    work, _ = trio.run(counted_scan, data)
    return work / len(data)


async def within(floor: float, data: bytes, *, single: bool = False) -> list[Found | Gap]:
    """What a scan of *data* finds, if its work is at most :data:`MOST` times *floor* a byte."""
    work, items = await counted_scan(data, single=single)
    assert work <= MOST * floor * len(data), f"{work / floor / len(data):.2f} times the work without damage"
    return items


def found_texts(data: bytes, items: list[Found | Gap]) -> list[bytes]:
    return [text_of(data, i) for i in items if isinstance(i, Found) and i.trust < Trust.DAMAGED]


@pytest.mark.parametrize("body", BODIES)
async def test_a_damaged_record_full_of_lookalikes_takes_no_more_work_and_hides_none_behind_it(
    floor: float, body: str
) -> None:
    text = b"Subject: look\n\n" + BODIES[body](SIZE)
    data = HEADER + hopeless(text) + record(2, b"last\n")
    items = await within(floor, data)
    assert found_texts(data, items)[-1:] == [b"last\n"]


@pytest.mark.parametrize("body", BODIES)
async def test_a_text_full_of_lookalikes_whose_header_is_damaged_is_proven_by_its_metadata(
    floor: float, body: str
) -> None:
    text = b"Subject: look\n\n" + BODIES[body](SIZE // 16)
    damaged = bytearray(record(1, text))
    damaged[20] ^= 0x40
    data = HEADER + bytes(damaged) + record(2, b"last\n")
    found = [item for item in await within(floor, data) if isinstance(item, Found)]
    assert [text_of(data, m) for m in found] == [text, b"last\n"]
    assert [m.trust for m in found] == [Trust.REPAIRED, Trust.WHOLE]


@pytest.mark.parametrize("body", BODIES)
async def test_a_damaged_file_with_one_message_full_of_lookalikes_takes_no_more_work(
    floor: float, body: str
) -> None:
    text = b"Subject: look\n\n" + BODIES[body](SIZE)
    (found, *_) = await within(floor, HEADER + hopeless(text), single=True)
    assert isinstance(found, Found)
    assert (found.trust, found.body_size) == (Trust.DAMAGED, len(text))


@pytest.mark.parametrize("records", FILES)
async def test_a_file_with_damage_at_every_record_takes_no_more_work_and_every_whole_one_is_found(
    floor: float, records: str
) -> None:
    data = HEADER + FILES[records](SIZE)
    items = await within(floor, data)
    if records.startswith("whole"):
        expected = [f"Subject: {n}\n".encode() for n in range(sum(isinstance(i, Found) for i in items))]
        assert [text[: text.index(b"\n") + 1] for text in found_texts(data, items)] == expected
        assert len(expected) == data.count(b"Subject: ")
    if records.startswith("every second"):
        whole_ones = [t for t in found_texts(data, items) if int(t[9 : t.index(b"\n")]) % 2 == 0]
        assert len(whole_ones) == (data.count(b"Subject: ") + 1) // 2


@pytest.mark.parametrize("body", ["metadata blocks", "metadata blocks that nearly fit"])
async def test_a_place_behind_which_no_record_follows_is_searched_once_also_in_a_file_of_many_stretches(
    floor: float, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "LOOK_AHEAD", SIZE // 64)
    text = b"Subject: look\n\n" + BODIES[body](SIZE // 8)
    data = HEADER + hopeless(text) + record(2, b"last\n")
    assert found_texts(data, await within(floor, data))[-1:] == [b"last\n"]


@pytest.mark.parametrize("body", BODIES_3)
async def test_a_damaged_record_of_version_3_full_of_lookalikes_takes_no_more_work(
    floor: float, body: str
) -> None:
    data, ends = file_of([b"Subject: look\n\n" + BODIES_3[body](SIZE), b"last\n"])
    damaged = bytearray(data)
    damaged[ends[0]] ^= 0x40
    at = data.rindex(b"\nL", 0, ends[1])
    damaged[at + 2 : at + 6] = b"zzzz"
    assert found_texts(bytes(damaged), await within(floor, bytes(damaged)))[-1:] == [b"last\n"]


@pytest.mark.parametrize("body", BODIES_3)
async def test_a_file_of_version_3_whose_header_line_is_lost_takes_no_more_work(
    floor: float, body: str
) -> None:
    await within(floor, b"?" * 50 + BODIES_3[body](SIZE))


async def test_the_same_however_far_away_the_proof_is() -> None:
    text = b"Subject: far\n\n" + blocks_that_fit(1 << 16, b"Z1\n") + bytes(3 << 20)
    damaged = bytearray(record(1, text))
    damaged[20] ^= 0x40
    for chunk in (1 << 16, 1 << 20):
        data = HEADER + bytes(damaged) + each(whole, 1 << 16)
        first = (await scan(data, chunk=chunk))[0]
        assert isinstance(first, Found)
        assert (first.trust, text_of(data, first)) == (Trust.REPAIRED, text)


async def test_texts_with_every_mix_of_line_ends_are_proven() -> None:
    for text in sample().texts:
        for before in (b"\r", b"\r\n", b"\n", b"", b"\r\r\n\n"):
            for start in range(4085, 4110):  # around a grain of the landmarks
                padded = b"x" * start + before + text
                damaged = bytearray(record(1, padded))
                damaged[20] ^= 0x40
                data = HEADER + bytes(damaged) + record(2, b"\r\n")
                first = (await scan(data))[0]
                assert isinstance(first, Found)
                assert first.trust is Trust.REPAIRED
                assert first.body_size == len(padded)
