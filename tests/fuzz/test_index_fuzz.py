"""The index codecs on arbitrary and on damaged bytes: a value or FormatError, soon, and in little memory."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dboxfs.errors import FormatError
from dboxfs.index import payload
from dboxfs.index.base import encode_index, parse_index
from dboxfs.index.cachefile import CacheFile
from dboxfs.index.describe import describe_cache, describe_index, describe_log
from dboxfs.index.log import RecordType, encode_record, encode_size, iter_records, parse_log_header
from dboxfs.index.mailbox import guids, mailbox_header, map_uids, save_dates
from dboxfs.index.mapindex import MapIndex
from dboxfs.index.reader import Action, decide, load
from dboxfs.index.state import IndexState
from tests.index import build
from tests.index.test_views import cache_file
from tests.index.vectors import MAILBOX_INDEX, MAILBOX_LOG, MAP_INDEX, MAP_LOG

CACHE = cache_file()[0]
FILES = {
    "index": (MAILBOX_INDEX, MAP_INDEX),
    "log": (MAILBOX_LOG, MAP_LOG),
    "cache": (CACHE,),
}
#: What a codec may use at its peak: constant tables and error texts, and a multiple of the input.
MEMORY_FLOOR = 4 << 20
MEMORY_FACTOR = 100


def use_state(state: IndexState) -> None:
    """Ask a state everything: none of it may fail."""
    build.contents(state)
    assert state.uids.tolist() == sorted(set(state.uids.tolist()))
    assert len(state) == 0 or state.uids[-1] < state.next_uid
    assert parse_again(state)
    for view in (mailbox_header, map_uids, save_dates, guids):
        view(state)
    index = MapIndex(state)
    for uid in state.uids.tolist()[:20]:
        index.lookup(uid)


def parse_again(state: IndexState) -> bool:
    """A state that was written is read back as it is, unless its header makes no sense as a file."""
    try:
        again = parse_index(encode_index(state))
    except FormatError:
        return state.uid_validity == 0 or state.header_flags & 1 == 1 or state.tail_offset > state.head_offset
    assert again.uids.tolist() == state.uids.tolist()
    assert again.flags.tolist() == state.flags.tolist()
    assert [e.name for e in again.extensions] == [e.name for e in state.extensions]
    for ext in state.extensions:
        ours, theirs = state.column(ext.name), again.column(ext.name)
        assert (ours is None) == (theirs is None)
        assert ours is None or theirs is None or ours.tobytes() == theirs.tobytes()
    return True


def use_index(data: bytes) -> None:
    use_state(parse_index(data))


def use_log(data: bytes) -> None:
    header = parse_log_header(data)
    list(iter_records(data, header.hdr_size))
    plan = decide(None, header)
    if plan.action is Action.EMPTY:
        use_state(load(plan, None, data))


def use_cache(data: bytes) -> None:
    cache = CacheFile(data)
    for offset in range(0, len(data) + 8, 4):
        cache.lookup(offset)
    list(cache.walk())


USES: dict[str, Callable[[bytes], None]] = {"index": use_index, "log": use_log, "cache": use_cache}


def value_or_error(kind: str, data: bytes) -> None:
    """Run a codec; anything but a value or FormatError fails the test, and so does too much memory."""
    error: FormatError | None = None
    tracemalloc.start()
    try:
        USES[kind](data)
    except FormatError as caught:
        error = caught
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert error is None or (error.reason and error.offset >= 0)
    assert peak < MEMORY_FLOOR + MEMORY_FACTOR * len(data)


@pytest.mark.parametrize("kind", sorted(FILES))
@settings(deadline=5000)
@given(data=st.binary(max_size=600))
def test_arbitrary_bytes(kind: str, data: bytes) -> None:
    value_or_error(kind, data)


@pytest.mark.parametrize("kind", sorted(FILES))
@settings(deadline=5000)
@given(data=st.binary(max_size=600))
def test_arbitrary_bytes_behind_a_good_header(kind: str, data: bytes) -> None:
    start = {"index": 120, "log": 40, "cache": 32}[kind]
    value_or_error(kind, FILES[kind][0][:start] + data)


@pytest.mark.parametrize("kind", sorted(FILES))
@settings(max_examples=300, deadline=5000)
@given(source=st.data())
def test_damaged_files(kind: str, source: st.DataObject) -> None:
    data = bytearray(source.draw(st.sampled_from(FILES[kind])))
    for _ in range(source.draw(st.integers(1, 4))):
        at = source.draw(st.integers(0, len(data) - 1))
        change = source.draw(st.sampled_from(["flip", "word", "cut", "double"]))
        if change == "flip":
            data[at] ^= 1 << source.draw(st.integers(0, 7))
        elif change == "word":
            at -= at % 4
            values = st.sampled_from([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x00100000, len(data)])
            data[at : at + 4] = struct.pack("<I", source.draw(values))
        elif change == "cut" and len(data) > at > 0:
            del data[at:]
        else:
            data[at:at] = data[at - at % 4 : at - at % 4 + 64]
    value_or_error(kind, bytes(data))


@settings(max_examples=100, deadline=5000)
@given(data=st.binary(max_size=400))
def test_dumps_never_fail(data: bytes) -> None:
    for head in (b"", MAILBOX_LOG[:40], MAILBOX_INDEX[:120], CACHE[:32]):
        for describe in (describe_index, describe_log, describe_cache):
            assert all("\n" not in line for line in describe(head + data))


def test_sizes_that_lie_allocate_nothing() -> None:
    for offset in (4, 8, 32):
        for value in (0x7FFFFFFF, 0xFFFFFFFF, 0x01000000):
            data = bytearray(MAILBOX_INDEX)
            struct.pack_into("<I", data, offset, value)
            value_or_error("index", bytes(data))
    intro = struct.pack("<IIIHHHH4s", 0xFFFFFFFF, 0, 0x7FFFFFF0, 32767, 1, 0, 4, b"long")
    value_or_error("log", MAILBOX_LOG + encode_record(RecordType.EXT_INTRO, intro, True))
    intro = struct.pack("<IIIHHHH4s", 0xFFFFFFFF, 0, 0, 32767, 1, 0, 4, b"wide")
    value_or_error("log", MAILBOX_LOG + encode_record(RecordType.EXT_INTRO, intro, True))
    boundary = encode_record(RecordType.BOUNDARY, struct.pack("<I", 0x7FFFFFFC), True)
    value_or_error("log", MAILBOX_LOG + boundary)
    value_or_error("log", MAILBOX_LOG + encode_size((1 << 30) - 4) + struct.pack("<I", RecordType.APPEND))


# -- logs that make sense -----------------------------------------------------------------------------

UID = st.integers(1, 40)
KEYWORD = st.sampled_from(["k", "K", "l", "m" * 70])
NAME = st.sampled_from(["a", "cache", "modseq", "guid"])


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """One record of any kind, mostly valid."""
    low = draw(UID)
    high = low + draw(st.integers(0, 10))
    size = draw(st.sampled_from([1, 2, 4, 8]))
    kind = draw(st.integers(0, 13))
    simple: list[Callable[[], bytes]] = [
        lambda: build.append(low + draw(st.integers(0, 60)), flags=draw(st.integers(0, 255))),
        lambda: build.flags(low, high, draw(st.integers(0, 255)), draw(st.integers(0, 255))),
        lambda: build.keyword(draw(KEYWORD), low, high, draw(st.integers(0, 1))),
        lambda: build.expunge(low, external=draw(st.booleans())),
        lambda: encode_record(RecordType.EXPUNGE, payload.expunge([(low, high)]), draw(st.booleans())),
        lambda: build.header(4 * draw(st.integers(0, 29)), struct.pack("<I", low), draw(st.booleans())),
        lambda: build.intro(draw(NAME), size, size, draw(st.sampled_from([0, 16])), 0, draw(st.booleans())),
        lambda: build.intro(draw(st.integers(0, 3)), size, size),
        lambda: build.ext_records((low, bytes([high] * size))),
        lambda: build.increment(low, draw(st.integers(-3, 3))),
        lambda: build.ext_header(0, struct.pack("<QQ", low, 0)),
        lambda: build.reset(draw(st.integers(0, 1)), draw(st.booleans())),
        lambda: build.modseqs((draw(st.integers(0, 40)), draw(st.integers(1, 1 << 40)))),
        lambda: encode_record(RecordType.KEYWORD_RESET, payload.keyword_reset([(low, high)])),
    ]
    return simple[kind]()


TRANSACTIONS = st.lists(records(), min_size=1, max_size=4).map(lambda parts: build.transaction(*parts))


def until_broken(state: IndexState, data: bytes, offset: int) -> str:
    try:
        state.apply_log(data[offset - build.START :], offset)
    except FormatError as error:
        return str(error)
    return ""


@settings(max_examples=200, deadline=5000)
@given(parts=st.lists(TRANSACTIONS, max_size=12), seed=st.integers(0, 1 << 30))
def test_replay_in_any_pieces_is_replay_in_one_go(parts: list[bytes], seed: int) -> None:
    log = build.uid_validity() + build.append(*range(1, 20)) + b"".join(parts)
    whole = IndexState.empty(build.HEADER)
    error = until_broken(whole, log, build.START)
    use_state(whole)
    rnd = random.Random(seed)
    pieces = IndexState.empty(build.HEADER)
    ends = sorted(rnd.sample(range(len(log)), min(6, len(log))))
    found = [until_broken(pieces, log[:end], pieces.head_offset) for end in [*ends, len(log)]]
    assert found[-1] == error
    assert build.contents(pieces) == build.contents(whole)


def messages(state: IndexState) -> dict[int, tuple[object, ...]]:
    """What is known of each message, by uid; record data as far as it is not zero and reported."""
    columns = [(e.name, c) for e in state.extensions if (c := state.column(e.name)) is not None]
    columns = [(name, column) for name, column in columns if name not in ("cache", "modseq")]
    known: dict[int, tuple[object, ...]] = {}
    for row, uid in enumerate(state.uids.tolist()):
        data = {name: column[row].tobytes().rstrip(b"\0") for name, column in columns}
        known[uid] = (int(state.flags[row]), state.keywords(row), {n: d for n, d in data.items() if d})
    return known


@settings(max_examples=200, deadline=5000)
@given(parts=st.lists(TRANSACTIONS, max_size=8))
def test_changes_tell_the_difference(parts: list[bytes]) -> None:
    state = build.replayed(build.append(*range(1, 20)))
    for part in parts:
        before, everything = messages(state), build.contents(state)
        try:
            changes = state.apply_log(part, state.head_offset)
        except FormatError:
            assert build.contents(state) == everything
            return
        now = messages(state)
        assert changes.appended.tolist() == sorted(now.keys() - before.keys())
        assert changes.expunged.tolist() == sorted(before.keys() - now.keys())
        changed = {uid for uid in before.keys() & now.keys() if before[uid] != now[uid]}
        assert changed <= set(changes.updated.tolist()) <= before.keys() & now.keys()


@settings(max_examples=100, deadline=5000)
@given(parts=st.lists(TRANSACTIONS, min_size=1, max_size=10), cut=st.integers(0, 100))
def test_a_snapshot_and_the_rest_of_its_log_are_the_whole_log(parts: list[bytes], cut: int) -> None:
    log = build.uid_validity() + build.append(*range(1, 20)) + b"".join(parts)
    whole = IndexState.empty(build.HEADER)
    if until_broken(whole, log, build.START):
        return
    first = IndexState.empty(build.HEADER)
    first.apply_log(log[: len(log) * cut // 100], build.START)
    if first.uid_validity == 0 or first.header_flags & 1:
        return
    stored = parse_index(encode_index(first))
    stored.attach_log(build.HEADER, log)
    assert stored.highest_modseq == first.highest_modseq
    assert stored.pending_expunges.tolist() == first.pending_expunges.tolist()
    stored.table.selection = first.table.selection
    stored.apply_log(log[stored.head_offset - build.START :], stored.head_offset)
    ours, theirs = build.contents(stored), build.contents(whole)
    assert ours[6:12] == theirs[6:12]
