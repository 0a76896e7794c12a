"""Targets of the fuzzer: index, log and its replay, map, cache file, size table, text files of a store."""

from __future__ import annotations

import contextlib
import os
import struct
from random import Random

import numpy as np

from dboxfs.errors import DboxfsError
from dboxfs.index.base import parse_index, parse_log_position
from dboxfs.index.describe import describe_cache, describe_index, describe_log
from dboxfs.index.log import (
    LogHeader,
    RecordType,
    encode_log_header,
    encode_record,
    iter_records,
    parse_log_header,
)
from dboxfs.index.mapindex import MapIndex
from dboxfs.index.reader import Action, decide, load
from dboxfs.index.state import IndexState
from dboxfs.store import parse_location
from dboxfs.store.attrs import FactColumns
from dboxfs.store.mailbox_names import decode_mutf7, display_name, encode_mutf7, shown_part, storage_part
from dboxfs.store.size_format import (
    Remembered,
    block_size,
    decode_block,
    decode_header,
    encode_block,
    encode_header,
)
from dboxfs.store.subscriptions import parse_subscriptions
from tests.fuzz.dbox_targets import samples
from tests.fuzz.machine import Target
from tests.fuzz.test_index_fuzz import CACHE, use_cache, use_state
from tests.index.vectors import MAILBOX_INDEX, MAILBOX_LOG, MAP_INDEX, MAP_LOG

UIDS = (0, 1, 2, 3, 5, 100, 65536, 2**31, 2**32 - 2, 2**32 - 1)
NAMES = (
    b"mdbox",
    b"guid",
    b"map",
    b"ref",
    b"keywords",
    b"modseq",
    b"cache",
    b"mdbox-hdr",
    b"dbox-hdr",
    b"x" * 60,
    b"",
    b"\xff",
)
KEY, GENERATION = bytes(range(32)), bytes(range(16))
TOKENS = (
    struct.pack("<I", 0x1000CD90), b"\x80\x80\x80\x84", b"\x80\x80\x80\x83", struct.pack("<II", 1, 1),
    struct.pack("<HH", 28, 4), b"\xff\xff\xff\xff", bytes(8), b"keywords", b"guid", b"mdbox", b"modseq",
)  # fmt: skip


def pad4(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def some_payload(random: Random, kind: RecordType) -> bytes:
    """What a record of this kind may hold, more or less."""
    uids = sorted(
        random.choice((random.randrange(1, 12), random.choice(UIDS)))
        for _ in range(random.choice((1, 1, 2, 4)))
    )
    pairs = [(uid, min(uid + random.choice((0, 0, 1, 3)), 2**32 - 1)) for uid in uids]
    ranges = b"".join(struct.pack("<II", *pair) for pair in pairs)
    name = random.choice(NAMES)
    match kind:
        case RecordType.APPEND:
            return b"".join(struct.pack("<IB3x", uid, random.getrandbits(8)) for uid in uids)
        case RecordType.FLAG_UPDATE:
            return b"".join(struct.pack("<II4s", *pair, random.randbytes(4)) for pair in pairs)
        case RecordType.EXPUNGE_GUID:
            return b"".join(
                struct.pack("<I16s", uid, random.choice((bytes(16), random.randbytes(16)))) for uid in uids
            )
        case RecordType.HEADER_UPDATE | RecordType.EXT_HDR_UPDATE:
            data = random.randbytes(random.choice((0, 4, 4, 8, 24)))
            offset = random.choice((0, 4, 20, 24, 28, 48, 52, 64, 76, 119, 65535))
            return struct.pack("<HH", offset, len(data)) + pad4(data)
        case RecordType.EXT_INTRO:
            number = random.choice((0xFFFFFFFF, 0xFFFFFFFF, 0, 1, 7))
            sizes = (
                random.choice((0, 4, 8, 16, 24, 2**31)),
                random.choice((0, 1, 4, 8, 16, 65535)),
                random.choice((0, 1, 2, 4, 8)),
            )
            wanted = name if number == 0xFFFFFFFF else random.choice((b"", name))
            return struct.pack(
                "<IIIHHHH", number, random.choice((0, 1)), *sizes, random.choice((0, 1)), len(wanted)
            ) + pad4(wanted)
        case RecordType.EXT_REC_UPDATE:
            size = random.choice((1, 2, 4, 8, 16))
            return b"".join(pad4(struct.pack("<I", uid) + random.randbytes(size)) for uid in uids)
        case RecordType.EXT_ATOMIC_INC:
            return b"".join(
                struct.pack("<Ii", uid, random.choice((1, -1, 2**31 - 1, -(2**31)))) for uid in uids
            )
        case RecordType.KEYWORD_UPDATE:
            return struct.pack("<BxH", random.choice((0, 1, 2)), len(name)) + pad4(name) + ranges
        case RecordType.MODSEQ_UPDATE:
            return b"".join(
                struct.pack("<III", uid, random.getrandbits(32), random.choice((0, 0, 2**32 - 1)))
                for uid in uids
            )
        case RecordType.EXT_RESET:
            return struct.pack("<IB3x", random.choice((0, 1, 2)), random.choice((0, 1)))
        case _:
            return random.choice((ranges, bytes(4), random.randbytes(8)))


def make_log(random: Random) -> bytes:
    """A log whose frames hold; what is in its records may be anything that their kinds allow."""
    header = LogHeader(indexid=7, file_seq=2, prev_file_seq=random.choice((0, 0, 0, 1)))
    start = struct.pack("<HHI", 24, 4, 1000)
    records = [encode_record(RecordType.HEADER_UPDATE, start, True)] if random.random() < 0.8 else []
    if random.random() < 0.8:
        body = b"".join(struct.pack("<IB3x", uid, random.getrandbits(5)) for uid in range(1, 8))
        records.append(encode_record(RecordType.APPEND, body, True))
    for _ in range(random.randrange(12)):
        kind = random.choice(list(RecordType))
        try:
            records.append(encode_record(kind, some_payload(random, kind), random.random() < 0.6))
        except (ValueError, struct.error):
            continue  # an encoder that refuses what no log may have
    return encode_log_header(header) + b"".join(records)


def run_index(data: bytes, random: Random) -> None:
    if random.random() < 0.1:
        parse_log_position(data)
    use_state(parse_index(data))


def run_log(data: bytes, random: Random) -> None:
    header = parse_log_header(data)
    for record in iter_records(data, header.hdr_size):
        assert record.offset < len(data)


def run_replay(data: bytes, random: Random) -> None:
    """A log on nothing, and on a snapshot that it may belong to; at once, and in two parts."""
    header = parse_log_header(data)
    states: list[IndexState] = []
    for snapshot in (None, MAILBOX_INDEX):
        base = parse_index(snapshot) if snapshot is not None else None
        plan = decide(base, header, log_size=len(data))
        if plan.action in (Action.EMPTY, Action.REPLAY_LOG, Action.SNAPSHOT_ONLY):
            states.append(load(plan, base, data))
    for state in states:
        use_state(state)
    if states and decide(None, header).action is Action.EMPTY:
        first = IndexState.empty(header)
        cut = random.randrange(min(header.hdr_size, len(data)), len(data) + 1)
        first.apply_log(memoryview(data)[first.head_offset : cut], first.head_offset)
        first.apply_log(memoryview(data)[first.head_offset :], first.head_offset)
        assert first.uids.tolist() == states[0].uids.tolist(), "in two parts as at once"
        assert first.flags.tolist() == states[0].flags.tolist()


def run_map(data: bytes, random: Random) -> None:
    state = (
        parse_index(data) if data[:1] == b"\x07" else load(decide(None, parse_log_header(data)), None, data)
    )
    index = MapIndex(state)
    for uid in [*state.uids.tolist()[:50], *UIDS]:
        found = index.lookup(uid)
        assert found is None or 0 <= found.offset < 2**32
    index.rows_of(np.array(UIDS, np.uint32))


def run_cache(data: bytes, random: Random) -> None:
    use_cache(data)


def make_cache(random: Random) -> bytes:
    """Chains of records that go anywhere."""
    data = bytearray(CACHE)
    for _ in range(random.randrange(1, 8)):
        at = random.randrange(32, len(data), 4)
        struct.pack_into(
            "<I",
            data,
            at,
            random.choice((0, at, at - 4, at + 4, len(data), random.randrange(len(data)) & ~3)),
        )
    return bytes(data)


def run_describe(data: bytes, random: Random) -> None:
    for describe in (describe_index, describe_log, describe_cache):
        with contextlib.suppress(DboxfsError):  # it is another kind of file
            for line in describe(memoryview(data)):
                assert line.isprintable()


# -- tables and text files ----------------------------------------------------------------------------------


def make_table(random: Random) -> bytes:
    """A size table whose checksums hold."""
    header = encode_header(KEY, GENERATION, random.getrandbits(32))
    data, last = header, 0
    for number in range(random.randrange(1, 3)):
        count = random.randrange(1, 6)
        numbers = [
            np.array([random.getrandbits(62) - 2**61 for _ in range(count)], np.int64) for _ in range(4)
        ]
        small = [np.array([random.getrandbits(32) for _ in range(count)], np.uint32) for _ in range(2)]
        states = np.array([random.getrandbits(8) for _ in range(count)], np.uint8)
        rows = Remembered(small[0], numbers[0].astype(np.uint64), FactColumns(states, *numbers), small[1])
        data += encode_block(rows, header, number)
        last = number + 1
    return data + encode_block(rows[:0], header, last)


def run_table(data: bytes, random: Random) -> None:
    size = len(encode_header(KEY, GENERATION, 0))
    header = data[:size]
    sequence = decode_header(header, KEY, GENERATION)
    if sequence is None:
        return
    for number in range(4):
        start = data[size:]
        length = block_size(start[:16])
        rows = decode_block(start[:length], header, number, sequence)
        assert len(rows) == len(rows.facts)
        if not len(rows):
            break
        size += length


def run_subscriptions(data: bytes, random: Random) -> None:
    for name in parse_subscriptions(data):
        assert isinstance(name, str)
        display_name(name, utf8=random.random() < 0.5)


def run_mailbox_names(data: bytes, random: Random) -> None:
    """A directory's name as it is shown, and back."""
    utf8 = random.random() < 0.5
    part = os.fsdecode(data[:300].replace(b"/", b"").replace(b"\0", b""))
    if part in ("", ".", ".."):
        return
    shown = shown_part(part, utf8=utf8)
    assert "/" not in shown
    assert "\0" not in shown
    shown.encode("utf-8", "strict")
    try:
        again = storage_part(shown, utf8=utf8)
    except ValueError:
        return
    assert shown_part(again, utf8=utf8) == shown
    assert decode_mutf7(encode_mutf7(shown)) == shown


def run_location(data: bytes, random: Random) -> None:
    text = os.fsdecode(data[:300].replace(b"\0", b""))
    parse_location(text)


def targets() -> list[Target]:
    """All of them."""
    logs = [MAILBOX_LOG, MAP_LOG, *samples("dovecot*index.log")]
    caches = [CACHE, *samples("dovecot.index.cache")]
    subscriptions = [*samples("subscriptions"), b"INBOX\nWork\n", b"V\t2\n\nA\tB\x011\n"]
    parts = [
        b"INBOX",
        b"Entw&APw-rfe",
        "Entwürfe".encode(),
        b"5.eml",
        b"%2E",
        b"a&-b",
        b"&AAAAAA-",
        b"\xff\xfe",
        b"&ZeVnLIqe-",
    ]
    locations = [
        b"sdbox:/srv/mail",
        b"mdbox:~/mdbox:INDEX=/i/%u:CONTROL=/c:ALT=/a:DIRNAME=x:LAYOUT=fs:UTF-8",
        b"/plain/path",
    ]
    return [
        Target("index", [MAILBOX_INDEX, MAP_INDEX], run_index, TOKENS, None, 10),
        Target("log", logs, run_log, TOKENS, make_log, 8),
        Target("replay", logs, run_replay, TOKENS, make_log, 16),
        Target("map", [MAP_INDEX, MAP_LOG, *samples("dovecot.map.index.log")], run_map, TOKENS, make_log, 8),
        Target("cache", caches[:6], run_cache, TOKENS, make_cache, 6),
        Target("index-words", [MAILBOX_INDEX, MAP_LOG, CACHE], run_describe, TOKENS, make_log, 4),
        Target("sizetable", [make_table(Random(1))], run_table, TOKENS, make_table, 6),
        Target(
            "subscriptions", subscriptions, run_subscriptions, (b"V\t2\n", b"\t", b"\x01t", b"\n"), None, 4
        ),
        Target(
            "mailbox-names", parts, run_mailbox_names, (b"&", b"-", b"%", b"&APw-", b".eml", b"."), None, 8
        ),
        Target(
            "location", locations, run_location, (b":", b"=", b"INDEX=", b"ALT=", b"~", b"%u", b"%%"), None, 4
        ),
    ]
