"""The typed views: mailbox extensions, the mdbox map, the cache file, and all of them as text."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.errors import FormatError
from dboxfs.index import mailbox
from dboxfs.index.base import parse_index
from dboxfs.index.cachefile import CacheFile
from dboxfs.index.describe import describe_cache, describe_index, describe_log
from dboxfs.index.log import encode_size, parse_log_header
from dboxfs.index.mapindex import MapIndex, MapRecord
from dboxfs.index.reader import decide, load
from tests.index import build
from tests.index.vectors import MAILBOX_INDEX, MAILBOX_LOG, MAP_INDEX, MAP_LOG


def test_mdbox_mailbox_extensions() -> None:
    state = parse_index(MAILBOX_INDEX)
    header = mailbox.mailbox_header(state)
    assert header is not None
    assert (header.kind, header.map_uid_validity, header.flags) == ("mdbox-hdr", 1795206765, 0)
    assert header.guid.hex() == "565fbe276dae006b9a74000083ecc375"
    assert mailbox.encode_mailbox_header(header) == state.header_data("mdbox-hdr")
    map_uids, saved, guids = mailbox.map_uids(state), mailbox.save_dates(state), mailbox.guids(state)
    assert map_uids is not None
    assert saved is not None
    assert guids is not None
    assert map_uids.tolist() == [1, 2]
    assert saved.tolist() == [1795206765, 1795206765]
    assert [g.tobytes().hex() for g in guids] == [
        "575fbe276dae006b9a74000083ecc375",
        "9b6b19296dae006b9c74000083ecc375",
    ]
    assert mailbox.virtual_sizes(state) is None


def test_cache_offsets_are_valid_for_one_cache_file_only() -> None:
    state = parse_index(MAILBOX_INDEX)
    offsets = mailbox.cache_offsets(state, 1795206765)
    assert offsets is not None
    assert offsets.tolist() == [0x184, 0x1C4]
    assert mailbox.cache_offsets(state, 1) is None


def test_sdbox_header_and_its_absence() -> None:
    assert mailbox.mailbox_header(build.replayed()) is None
    hdr = struct.pack("<I16sB3x", 3, b"guidguidguidguid", mailbox.HAVE_POP3_UIDLS)
    state = build.replayed(build.intro("dbox-hdr", hdr_size=24), build.ext_header(0, hdr))
    header = mailbox.mailbox_header(state)
    assert header == mailbox.MailboxHeader("dbox-hdr", b"guidguidguidguid", 1, rebuild_count=3)
    assert mailbox.encode_mailbox_header(header) == hdr


def test_the_map_finds_messages() -> None:
    state = load(decide(None, parse_log_header(MAP_LOG)), None, MAP_LOG)
    index = MapIndex(state)
    assert index.lookup(1) == MapRecord(1, 1, 0x10, 0xA5, 0)
    assert index.lookup(2) == MapRecord(2, 1, 0xB5, 0xA5, 2)
    assert index.lookup(3) is None
    found = index.lookup_many(np.array([2, 9, 1], np.uint32))
    assert found == [MapRecord(2, 1, 0xB5, 0xA5, 2), None, MapRecord(1, 1, 0x10, 0xA5, 0)]
    assert (index.highest_file_id, index.rebuild_count, index.uid_validity) == (1, 0, 1795206765)
    assert state.tail_offset == state.head_offset == 608
    rows = index.rows_of([2, 9, 1])
    assert rows.tolist() == [1, -1, 0]
    assert index.offsets[rows[[0, 2]]].tolist() == [0xB5, 0x10]
    assert (index.file_ids.tolist(), index.sizes.tolist()) == ([1, 1], [165, 165])
    assert index.refcounts.tolist() == [0, 2]


def test_the_maps_snapshot() -> None:
    index = MapIndex(parse_index(MAP_INDEX))
    assert (len(index), index.rebuild_count, index.map_uids.tolist()) == (2, 1, [1, 2])
    assert index.lookup(2) == MapRecord(2, 1, 0xB5, 0xA5, 2)


def test_an_empty_map() -> None:
    index = MapIndex(build.replayed())
    assert (index.lookup(1), index.highest_file_id, index.refcounts.tolist()) == (None, 0, [])
    assert index.lookup_many(np.array([1, 2], np.uint32)) == [None, None]


# -- cache file ---------------------------------------------------------------------------------------

FIELDS = [
    ("size.physical", 8, 0),
    ("date.received", 4, 0),
    ("guid", 0xFFFFFFFF, 2),
    ("flags", 4, 3),
    ("hdr.subject", 0xFFFFFFFF, 4),
]


def cache_header(field_offset: int) -> bytes:
    return struct.pack("<BBBxIIIIII", 1, 8, 1, 7, 99, 0, 2, 0, 0) + encode_size(field_offset)


def field_header(next_offset: int = 0) -> bytes:
    n = len(FIELDS)
    names = b"".join(name.encode() + b"\0" for name, _, _ in FIELDS)
    body = struct.pack(f"<{n}I", *[0] * n) + struct.pack(f"<{n}I", *(size for _, size, _ in FIELDS))
    body += bytes(kind for _, _, kind in FIELDS) + bytes([2] * n) + names
    body += bytes(-len(body) % 4)
    start = encode_size(next_offset) if next_offset else bytes(4)
    return start + struct.pack("<II", 12 + len(body), n) + body


def record(prev: int, *fields: tuple[int, bytes]) -> bytes:
    parts = []
    for number, data in fields:
        kind = FIELDS[number][2]
        size = struct.pack("<I", len(data)) if kind in (1, 2, 4) else b""
        parts.append(struct.pack("<I", number) + size + data + bytes(-len(data) % 4))
    body = b"".join(parts)
    return struct.pack("<II", prev, 8 + len(body)) + body


def cache_file() -> tuple[bytes, int, int]:
    """(file, offset of the older record, of the newer one)."""
    fields = field_header()
    older_at = 32 + len(fields)
    older = record(0, (1, struct.pack("<I", 1000)), (2, b"old guid"), (3, b"\x01\0\0\0"))
    newer_at = older_at + len(older)
    newer = record(
        older_at,
        (0, struct.pack("<Q", 1 << 33)),
        (2, b"new"),
        (3, b"\x20\0\0\0"),
        (4, b"\x01\0\0\0\0\0\0\0S: x\n"),
    )
    return cache_header(32) + fields + older + newer, older_at, newer_at


def test_cached_values_of_a_chain_of_records() -> None:
    data, older_at, newer_at = cache_file()
    cache = CacheFile(data)
    assert (cache.header.indexid, cache.header.file_seq) == (7, 99)
    assert [f.name for f in cache.fields] == [name for name, _, _ in FIELDS]
    assert cache.lookup(older_at) == {"date.received": 1000, "guid": "old guid", "flags": b"\x01\0\0\0"}
    assert cache.lookup(newer_at) == {
        "size.physical": 1 << 33,
        "date.received": 1000,
        "guid": "new",
        "flags": b"\x21\0\0\0",
        "hdr.subject": b"\x01\0\0\0\0\0\0\0S: x\n",
    }
    walked = list(cache.walk())
    assert walked == [(older_at, 0, newer_at - older_at), (newer_at, older_at, len(data) - newer_at)]


def test_what_makes_no_sense_is_not_cached() -> None:
    data, older_at, newer_at = cache_file()
    for offset in (0, 4, 31, older_at + 1, len(data), 1 << 31):
        assert CacheFile(data).lookup(offset) == {}
    looped = bytearray(data)
    struct.pack_into("<I", looped, older_at, newer_at)
    assert CacheFile(looped).lookup(newer_at)["guid"] == "new"
    unknown = bytearray(data)
    struct.pack_into("<I", unknown, newer_at + 8, 77)
    assert CacheFile(unknown).lookup(newer_at) == CacheFile(data).lookup(older_at)
    assert CacheFile(data[:-4]).lookup(newer_at) == {}


def test_a_number_that_only_an_older_record_of_a_message_has_is_found_for_many_messages() -> None:
    data, older_at, newer_at = cache_file()
    last_at = len(data)
    data += record(newer_at, (2, b"newest"))
    cache, offsets = CacheFile(data), [last_at, older_at, 0, newer_at]
    assert [cache.lookup(offset).get("date.received") for offset in offsets] == [1000, 1000, None, 1000]
    assert cache.numbers(np.array(offsets, np.uint32), "date.received").tolist() == [1000, 1000, -1, 1000]


@given(st.data())
def test_one_number_of_many_messages_is_the_one_that_each_message_has(data: st.DataObject) -> None:
    """Also in a file that was damaged anywhere behind its header."""
    whole, older_at, newer_at = cache_file()
    damaged = bytearray(whole)
    for at in data.draw(st.lists(st.integers(32 + len(field_header()), len(whole) - 4), max_size=6)):
        struct.pack_into(
            "<I", damaged, at & ~3, data.draw(st.sampled_from((0, 1, 3, 4, 8, 77, older_at, newer_at)))
        )
    cache = CacheFile(damaged[: data.draw(st.integers(len(whole) - 40, len(whole)))])
    offsets = [0, older_at, newer_at, 4, older_at + 1, newer_at + 16, len(whole), 1 << 31]
    for name in ("date.received", "size.physical", "guid", "none"):
        each = [cache.lookup(offset).get(name) for offset in offsets]
        expected = [value if isinstance(value, int) else -1 for value in each]
        assert cache.numbers(np.array(offsets, np.uint32), name).tolist() == expected


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"\x02", "major version 2"),
        (1, b"\x04", "offsets of 4"),
        (28, encode_size(1 << 20), "out of place"),
        (32, encode_size(32), "out of place"),
        (36, b"\x01\0\0\0", "field header"),
        (40, b"\xff\xff\xff\xff", "field header"),
        (44 + 10 * len(FIELDS), b"\0", "no name"),
    ],
)
def test_damaged_cache_headers(offset: int, value: bytes, reason: str) -> None:
    data = bytearray(cache_file()[0])
    data[offset : offset + len(value)] = value
    with pytest.raises(FormatError, match=reason):
        CacheFile(data)


def test_only_the_last_field_header_counts() -> None:
    first = field_header(next_offset=32 + len(field_header()))
    assert len(CacheFile(cache_header(32) + first + field_header()).fields) == len(FIELDS)
    assert CacheFile(cache_header(0)).fields == ()


# -- text ---------------------------------------------------------------------------------------------


def test_a_dump_of_a_log_names_every_record() -> None:
    lines = list(describe_log(MAILBOX_LOG))
    assert "record: offset=736 size=28 type=keyword_update (internal)" in lines
    at = lines.index("record: offset=736 size=28 type=keyword_update (internal)")
    assert lines[at + 1 : at + 3] == ["  add '$Label1'", "  uid=1"]
    assert "  offset=64 size=4 log_file_tail_offset=1044" in lines
    assert "  uid=1 guid=575fbe276dae006b9a74000083ecc375" in lines
    assert sum(line.startswith("record:") for line in lines) == 46


def test_a_dump_of_a_snapshot() -> None:
    lines = list(describe_index(MAILBOX_INDEX))
    assert "next_uid: 3" in lines
    assert "keyword 1: Work" in lines
    assert lines[-1].startswith("record 2: uid=2 flags=0x02 (\\Flagged) cache=c4010000 mdbox=02000000")
    assert any("map_uid_validity=1795206765 guid=565fbe276dae006b9a74000083ecc375" in line for line in lines)
    assert "  highest_file_id=1 rebuild_count=1" in list(describe_index(MAP_INDEX))


def test_a_dump_of_a_cache_file() -> None:
    data, older_at, newer_at = cache_file()
    lines = list(describe_cache(data))
    assert f"record: offset={newer_at} size={len(data) - newer_at} prev_offset={older_at}" in lines
    assert "  guid: old guid" in lines
    assert "field 2 guid: type=string size=variable decision=0x2 last_used=0" in lines


def test_damage_is_one_line_at_the_end_of_a_dump() -> None:
    broken = MAILBOX_LOG[:840] + b"\x80\x80\x80\x82" + MAILBOX_LOG[844:]
    assert list(describe_log(broken))[-1] == "damaged at offset 840: record of 8 bytes has no contents"
    assert list(describe_log(MAILBOX_LOG[:800]))[-1].startswith("incomplete at offset 788: 12 bytes")
    assert list(describe_index(b"")) == ["damaged at offset 0: index: 0 bytes, a header of 120 expected"]
    assert len(list(describe_cache(b"x" * 40))) == 1


def test_bitmasks_of_two_fields_of_one_name_are_joined_whatever_their_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(globals(), "FIELDS", [("flags", 8, 3), *FIELDS[1:]])
    data, _, newer_at = cache_file()
    assert CacheFile(data).lookup(newer_at)["flags"] == (1 << 33 | 0x21).to_bytes(8, "little")
