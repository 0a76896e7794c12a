"""The facts of usual records: by the format page (dbox-files sections 1.1 to 1.4), and as the whole parser
reads them.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dboxfs.dbox import encode_file_header, encode_message_header
from dboxfs.errors import FormatError
from dboxfs.store.attrs import KNOWN, Facts
from dboxfs.store.stored_record import HEAD, TAIL, Record, file_header, parse_record
from dboxfs.store.usual_record import UsualMessage, usual_body, usual_message

LINE = b"2 M1e C6b0dd5f0\n"
BODY = b"From: Ann Example\n\nhello\n"
HEADER = b"\x01\x02N          0000000000000019\n"
METADATA = b"\n\x01\x03\nR6553f100\nV1c\nG00112233445566778899aabbccddeeff\n\n"
GUID = b"00112233445566778899aabbccddeeff"


def of_file(data: bytes, saved: int = 7) -> UsualMessage | None:
    """The usual message of an sdbox file."""
    tail = data[-TAIL:]
    return usual_message(data[:HEAD], tail, len(data) - len(tail), 0, len(data), saved, whole=False)


def test_the_facts_of_a_usual_file_are_those_of_its_lines() -> None:
    found = of_file(LINE + HEADER + BODY + METADATA)
    assert found == (Facts(KNOWN, 0x19, 0x6553F100, 7, 0x1C), GUID)
    assert usual_body(LINE + HEADER + BODY, 0x19) == len(LINE + HEADER)
    assert usual_body(LINE + HEADER + BODY, 0x18) is None


def test_a_record_in_a_container_must_end_where_the_map_says() -> None:
    record = HEADER + BODY + METADATA
    for beyond in (b"", b"\x01"):
        data = record + beyond
        found = usual_message(data[:45], data, 100, 100, 100 + len(data), 7, whole=True)
        assert (found is None) is bool(beyond)


@pytest.mark.parametrize(
    "data",
    [
        LINE + HEADER + b"BZh9" + BODY[4:] + METADATA,
        LINE + HEADER + b"CRYPTED\x03\x07" + BODY[9:] + METADATA,
        LINE + HEADER + b"Dovecot-LZ4\r" + BODY[12:] + METADATA,
        LINE + HEADER + b"\x1f\x8b" + BODY[2:] + METADATA,
        LINE + HEADER + BODY + METADATA.replace(b"\n\n", b"\nX1 2 3 a\n\n"),
        LINE + HEADER + BODY + METADATA.replace(b"R6", b"R-6"),
        LINE + HEADER + BODY + METADATA.replace(b"\nR", b"\n\0"),
        LINE + HEADER + BODY + METADATA[:-1],
        LINE + HEADER.replace(b"19", b"1a") + BODY + METADATA,
        LINE + HEADER + BODY + b"\0" * 600,
        b"3" + LINE[1:] + HEADER + BODY + METADATA,
        LINE.replace(b"M1e", b"M20") + HEADER + BODY + METADATA,
        b"",
    ],
)
def test_what_is_coded_attached_or_damaged_is_left_to_the_parser(data: bytes) -> None:
    assert of_file(data) is None


values = st.one_of(st.just(b""), st.binary(max_size=6), st.sampled_from([b"0", b"1c", b"6553f100", b"a\r"]))
lines = st.lists(st.tuples(st.sampled_from(list(b"ZRVPOGBXQ \n")), values), max_size=7)
bodies = st.one_of(st.binary(max_size=40), st.sampled_from([b"BZh9 ", b"Subject: x\n", b"CRYPTED\x03\x07x"]))


@given(bodies, lines, st.sampled_from([b"\n", b"", b"\n\n", b" \n"]))
def test_a_usual_message_has_the_facts_that_the_parser_reads(
    body: bytes, items: list[tuple[int, bytes]], end: bytes
) -> None:
    usual = b"".join(bytes([key]) + value + b"\n" for key, value in items)
    data = encode_file_header(5) + encode_message_header(len(body)) + body + b"\n\x01\x03\n" + usual + end
    found = of_file(data)
    if found is None:
        return
    header = file_header(data)
    view, tail = memoryview(data), memoryview(data[-TAIL:])
    record = parse_record(
        view[header.size :], tail, len(data) - len(tail), header.size, len(data), header=header, whole=False
    )
    assert isinstance(record, Record)
    assert (record.facts(7), record.metadata.guid) == found


@given(st.binary(max_size=20), st.integers(0, 2**60 - 1), st.integers(0, 2**60 - 1))
def test_what_a_writer_writes_is_usual(rest: bytes, received: int, virtual: int) -> None:
    body = b"Subject: a\n\n" + rest
    lines = b"R%x\nV%x\nG%s\nBWork\n\n" % (received, virtual, GUID)
    data = encode_file_header(5) + encode_message_header(len(body)) + body + b"\n\x01\x03\n" + lines
    known = virtual if len(body) <= virtual <= 2 * len(body) else 0
    assert of_file(data) == (Facts(KNOWN, len(body), received, 7, known), GUID)


def test_the_parser_names_the_error_of_what_is_not_usual() -> None:
    data = LINE + HEADER + BODY + b"\0" * 100
    with pytest.raises(FormatError, match="no metadata"):
        parse_record(
            memoryview(data)[len(LINE) :], memoryview(data), 0, len(LINE), len(data),
            header=file_header(data), whole=False,
        )  # fmt: skip
