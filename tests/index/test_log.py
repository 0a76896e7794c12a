"""The log's header, its records as bytes, and how its modseq is counted."""

from __future__ import annotations

import struct

import pytest

from dboxfs.errors import FormatError
from dboxfs.index import payload
from dboxfs.index.log import (
    EXTERNAL,
    SYNC,
    LogHeader,
    RecordType,
    count_modseq,
    decode_size,
    encode_log_header,
    encode_record,
    encode_size,
    encode_transaction,
    is_cut_short,
    iter_records,
    parse_log_header,
)
from tests.index import build
from tests.index.vectors import MAILBOX_LOG, MAP_LOG

EXPECTED_HEADER = LogHeader(indexid=1795206765, file_seq=2, create_stamp=1795206765, initial_modseq=1)


@pytest.mark.parametrize("log", [MAILBOX_LOG, MAP_LOG])
def test_header_is_read_and_written_as_dovecot_does(log: bytes) -> None:
    assert parse_log_header(log) == EXPECTED_HEADER
    assert encode_log_header(EXPECTED_HEADER) == log[:40]


def test_short_header_of_an_old_log_has_zeros_for_the_rest() -> None:
    old = struct.pack("<BBHIIIII", 1, 1, 24, 7, 3, 2, 4096, 99)
    header = parse_log_header(old)
    assert (header.file_seq, header.prev_file_seq, header.prev_file_offset) == (3, 2, 4096)
    assert (header.hdr_size, header.initial_modseq) == (24, 1)


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0, b"\x02", "major version 2"),
        (32, b"\x00", "big-endian"),
        (2, b"\x10\x00", "hdr_size 16"),
        (8, bytes(4), "file_seq is 0"),
    ],
)
def test_foreign_headers_are_refused_with_a_reason(offset: int, value: bytes, reason: str) -> None:
    damaged = MAILBOX_LOG[:offset] + value + MAILBOX_LOG[offset + len(value) :]
    with pytest.raises(FormatError, match=reason):
        parse_log_header(damaged)


@pytest.mark.parametrize("length", [0, 23, 39])
def test_cut_headers_are_refused(length: int) -> None:
    with pytest.raises(FormatError, match="header"):
        parse_log_header(MAILBOX_LOG[:length])


def test_indexid_zero_means_marked_corrupted() -> None:
    header = parse_log_header(MAILBOX_LOG[:4] + bytes(4) + MAILBOX_LOG[8:])
    assert header.marked_corrupted
    assert not EXPECTED_HEADER.marked_corrupted


@pytest.mark.parametrize(
    ("size", "encoded"), [(36, "80808089"), (0, "80808080"), (512, "80808180"), ((1 << 30) - 4, "ffffffff")]
)
def test_sizes_are_seven_bits_a_byte(size: int, encoded: str) -> None:
    assert encode_size(size).hex() == encoded
    assert decode_size(int(encoded, 16)) == size


@pytest.mark.parametrize("encoded", ["00000000", "00808089", "80008089", "80800089", "80808009"])
def test_a_size_with_a_missing_top_bit_is_not_written_yet(encoded: str) -> None:
    assert decode_size(int(encoded, 16)) == 0


@pytest.mark.parametrize("size", [-4, 2, 1 << 30])
def test_sizes_that_can_not_be_encoded(size: int) -> None:
    with pytest.raises(ValueError, match="size"):
        encode_size(size)


# offset, size, type, external: the annotated dump of the vector
MAILBOX_RECORDS = [
    (40, 16, RecordType.HEADER_UPDATE, True),
    (56, 12, RecordType.BOUNDARY, True),
    (68, 44, RecordType.EXT_INTRO, True),
    (112, 16, RecordType.EXT_HDR_UPDATE, True),
    (128, 40, RecordType.EXT_INTRO, True),
    (168, 36, RecordType.EXT_HDR_UPDATE, True),
    (204, 24, RecordType.HEADER_UPDATE, True),
    (228, 12, RecordType.BOUNDARY, True),
    (240, 36, RecordType.EXT_INTRO, True),
    (276, 16, RecordType.EXT_RESET, True),
    (292, 12, RecordType.BOUNDARY, True),
    (304, 16, RecordType.APPEND, True),
    (320, 28, RecordType.EXT_INTRO, True),
    (348, 16, RecordType.EXT_REC_UPDATE, True),
    (364, 36, RecordType.EXT_INTRO, True),
    (400, 20, RecordType.EXT_REC_UPDATE, True),
    (420, 32, RecordType.EXT_INTRO, True),
    (452, 28, RecordType.EXT_REC_UPDATE, True),
    (480, 48, RecordType.HEADER_UPDATE, True),
    (528, 12, RecordType.BOUNDARY, True),
    (540, 16, RecordType.APPEND, True),
    (556, 28, RecordType.EXT_INTRO, True),
    (584, 16, RecordType.EXT_REC_UPDATE, True),
    (600, 28, RecordType.EXT_INTRO, True),
    (628, 20, RecordType.EXT_REC_UPDATE, True),
    (648, 28, RecordType.EXT_INTRO, True),
    (676, 28, RecordType.EXT_REC_UPDATE, True),
    (704, 12, RecordType.BOUNDARY, True),
    (716, 20, RecordType.FLAG_UPDATE, False),
    (736, 28, RecordType.KEYWORD_UPDATE, False),
    (764, 24, RecordType.KEYWORD_UPDATE, False),
    (788, 16, RecordType.HEADER_UPDATE, True),
    (804, 20, RecordType.FLAG_UPDATE, False),
    (824, 16, RecordType.HEADER_UPDATE, True),
    (840, 20, RecordType.FLAG_UPDATE, False),
    (860, 16, RecordType.HEADER_UPDATE, True),
    (876, 28, RecordType.EXPUNGE_GUID, False),
    (904, 12, RecordType.BOUNDARY, True),
    (916, 40, RecordType.EXT_INTRO, True),
    (956, 28, RecordType.EXT_HDR_UPDATE, True),
    (984, 28, RecordType.EXPUNGE_GUID, True),
    (1012, 16, RecordType.HEADER_UPDATE, True),
    (1028, 16, RecordType.HEADER_UPDATE, True),
    (1044, 12, RecordType.BOUNDARY, True),
    (1056, 28, RecordType.EXT_INTRO, False),
    (1084, 16, RecordType.EXT_REC_UPDATE, False),
]


def test_records_lie_where_dovecot_put_them() -> None:
    records = [(r.offset, r.size, r.type, r.external) for r in iter_records(MAILBOX_LOG, 40)]
    assert records == MAILBOX_RECORDS


def test_records_can_be_read_from_the_middle_of_a_file() -> None:
    records = list(iter_records(MAILBOX_LOG[528:], 704, base=528))
    assert [r.offset for r in records] == [r[0] for r in MAILBOX_RECORDS if r[0] >= 704]


def test_every_record_is_written_as_dovecot_wrote_it() -> None:
    written = b"".join(
        encode_record(r.type, bytes(r.payload), r.external) for r in iter_records(MAILBOX_LOG, 40)
    )
    assert written == MAILBOX_LOG[40:]


def test_a_transaction_is_given_whole_or_not_at_all() -> None:
    ends = {56: 228, 228: 292, 292: 528, 528: 704, 704: 788, 904: 984, 1044: 1100}
    for length in range(40, len(MAILBOX_LOG) + 1):
        whole = []
        for offset, size, _, _ in MAILBOX_RECORDS:
            needed = [end for start, end in ends.items() if start <= offset < end] or [offset + size]
            if needed[0] <= length:
                whole.append(offset)
        assert [r.offset for r in iter_records(MAILBOX_LOG[:length], 40)] == whole


def test_a_size_that_is_not_written_yet_ends_the_log() -> None:
    torn = bytearray(MAILBOX_LOG)
    torn[840:844] = bytes(4)
    assert [r.offset for r in iter_records(torn, 804)] == [804, 824]


def test_a_transaction_with_a_size_that_is_not_written_yet_is_incomplete() -> None:
    torn = bytearray(MAILBOX_LOG)
    torn[736:740] = bytes(4)
    assert list(iter_records(torn, 704)) == []


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (encode_size(8) + struct.pack("<I", RecordType.APPEND), "no contents"),
        (encode_record(RecordType.BOUNDARY, struct.pack("<I", 8), True), "too short"),
        (
            encode_record(RecordType.BOUNDARY, struct.pack("<I", 16), True) + build.append(1),
            "crosses the end",
        ),
        (encode_size(16) + struct.pack("<III", RecordType.EXPUNGE, 1, 1), "protection bits"),
        (encode_size(28) + struct.pack("<I20x", 0x2000), "protection bits"),
    ],
)
def test_broken_records_are_errors_with_their_offset(records: bytes, reason: str) -> None:
    log = build.append(9) + records
    with pytest.raises(FormatError, match=reason) as caught:
        list(iter_records(log, 40, base=40))
    assert caught.value.offset >= 40 + len(build.append(9))


def test_unknown_kinds_and_the_sync_flag_are_passed_on() -> None:
    raw = encode_size(12) + struct.pack("<II", 0x400000 | SYNC | EXTERNAL, 5)
    (record,) = iter_records(raw, 0)
    assert (record.type, record.sync, record.external, bytes(record.payload)) == (
        0x400000,
        True,
        True,
        b"\x05\0\0\0",
    )


def test_one_record_needs_no_boundary_and_several_get_one() -> None:
    first, second = build.append(1), build.flags(1, 1, 8)
    assert encode_transaction([first]) == first
    both = encode_transaction([first, second])
    assert both == bytes.fromhex("80808083 00000810") + struct.pack("<I", 12 + 16 + 20) + first + second


def test_a_tail_update_is_the_one_that_dovecot_writes() -> None:
    assert encode_record(RecordType.HEADER_UPDATE, payload.tail_update(788), True) == MAILBOX_LOG[788:804]


RAISING = [
    build.append(1, 2),
    build.keyword("a", 1, 1),
    encode_record(RecordType.KEYWORD_RESET, payload.keyword_reset([(1, 2)])),
    encode_record(RecordType.ATTRIBUTE_UPDATE, b"+pname\0\0\x01\0\0\0"),
    build.expunge(1),
    build.flags(1, 2, 0x08),
    build.flags(1, 2, 0, 0x10),
    build.flags(1, 2, 0x40, 0, inc=1),
]
KEEPING = [
    build.expunge(1, external=False),
    build.flags(1, 2, 0x40, 0x80),
    build.uid_validity(),
    build.intro("x", 4, 4),
    build.modseqs((0, 1)),
]


@pytest.mark.parametrize("record", RAISING)
def test_records_that_raise_the_modseq(record: bytes) -> None:
    assert count_modseq(LogHeader(7, 2, initial_modseq=5), record, 40 + len(record)) == 6


@pytest.mark.parametrize("record", KEEPING)
def test_records_that_do_not_raise_the_modseq(record: bytes) -> None:
    assert count_modseq(LogHeader(7, 2, initial_modseq=5), record, 40 + len(record)) == 5


def test_modseq_update_raises_to_its_value_only() -> None:
    log = build.modseqs((0, 1 << 40)) + build.modseqs((3, 9)) + build.append(1)
    assert count_modseq(LogHeader(7, 2), log, 40 + len(log)) == (1 << 40) + 1


def test_old_logs_count_internal_flags_too() -> None:
    record = build.flags(1, 2, 0x40)
    assert count_modseq(LogHeader(7, 2, minor_version=2), record, 40 + len(record)) == 2


def test_modseq_can_be_counted_from_a_known_place() -> None:
    header = parse_log_header(MAILBOX_LOG)
    middle = count_modseq(header, MAILBOX_LOG[40:], 704)
    assert count_modseq(header, MAILBOX_LOG[40:], 1100, start=(704, middle)) == count_modseq(
        header, MAILBOX_LOG[40:], 1100
    )
    assert middle == 3  # initial 1, two appends


def _flags(uid: int) -> bytes:
    return encode_record(RecordType.FLAG_UPDATE, payload.flag_update([(uid, uid)], 8, 0))


def test_every_beginning_of_a_transaction_is_what_a_dead_writer_leaves() -> None:
    whole = encode_transaction([_flags(1), _flags(2), _flags(3)])
    single = _flags(1) * 1
    for data in (whole, single):
        assert [n for n in range(1, len(data)) if not is_cut_short(data[:n])] == []


def test_transaction_whose_first_size_is_not_written_is_not_there() -> None:
    assert is_cut_short(bytes(4) + encode_transaction([_flags(1), _flags(2)])[4:])


@pytest.mark.parametrize(
    "damage", [b"\x80\x80\xff\x90", b"\x80\x80\x00\x88"], ids=["too large", "a lost bit"]
)
def test_whole_transactions_behind_a_damaged_size_are_no_dead_writers(damage: bytes) -> None:
    several = encode_transaction([_flags(2), _flags(3)])
    tail = encode_record(RecordType.HEADER_UPDATE, payload.tail_update(400), external=True)
    for behind in (several, tail, several + _flags(4)):
        for first in (_flags(1), several):
            assert not is_cut_short(damage + first[4:] + behind)
    if damage[2] == 0xFF:
        assert not is_cut_short(damage + _flags(1)[4:] + _flags(2))
