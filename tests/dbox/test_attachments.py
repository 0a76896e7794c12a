"""External attachments: what X says, the plan of the whole message, base64 at any byte range."""

from __future__ import annotations

import base64
import random

import pytest

from dboxfs.dbox import (
    ExtRef,
    Segment,
    encode_base64_range,
    encoded_size,
    parse_ext_refs,
    plan,
    raw_range,
)
from dboxfs.dbox.attachments import MAX_REFS
from dboxfs.errors import FormatError

# of a message that Dovecot 2.3.19 saved with mail_attachment_dir
X_VALUE = (
    b"195 270371 B72 38/87/3887cb0b202271d30d4884e126250d669ebe1b71-2452403690c4006b6c28000083ecc375 "
    b"270597 150001 - f0/4b/f04bdfd8595b1f0e0dbec53a272ce94f5ae955ad-2552403690c4006b6c28000083ecc375 "
    b"420669 189124 B76 e9/38/e938ac9d6a6056b3075bf859109d3cad67fea69b-2652403690c4006b6c28000083ecc375"
)


def test_references_that_dovecot_wrote() -> None:
    refs = parse_ext_refs(X_VALUE)
    assert refs == (
        ExtRef(195, 270371, "B72", X_VALUE.split(b" ")[3].decode(), 72, False),
        ExtRef(270597, 150001, "-", X_VALUE.split(b" ")[7].decode(), None, False),
        ExtRef(420669, 189124, "B76", X_VALUE.split(b" ")[11].decode(), 76, False),
    )
    # the files were made from 200001, 150001 and 140001 bytes
    for ref, raw_size in zip(refs, (200001, 150001, 140001), strict=True):
        ref.check_raw_size(raw_size)


@pytest.mark.parametrize(
    ("options", "line_length", "crlf"),
    [
        ("-", None, False),
        ("B76", 76, False),
        ("CB4", 4, True),
        ("B8C", 8, True),
        ("C", None, True),
        ("B4B8", 8, False),
    ],
)
def test_options(options: str, line_length: int | None, crlf: bool) -> None:
    assert parse_ext_refs(f"1 2 {options} p".encode()) == (ExtRef(1, 2, options, "p", line_length, crlf),)


def test_number_of_parts_is_bounded() -> None:
    assert len(parse_ext_refs(b" ".join([b"0 0 - a"] * MAX_REFS))) == MAX_REFS
    with pytest.raises(FormatError, match="more than 16384 external attachments"):
        parse_ext_refs(b" ".join([b"0 0 - a"] * (MAX_REFS + 1)))


def test_path_that_is_no_utf8_is_kept() -> None:
    (ref,) = parse_ext_refs(b"0 1 - a\xff/b")
    assert ref.path.encode("utf-8", "surrogateescape") == b"a\xff/b"


@pytest.mark.parametrize(
    ("value", "offset", "reason"),
    [
        (b"", 0, "not groups of four: 1 fields"),
        (b"1 2 -", 0, "not groups of four"),
        (b"1 2 - a ", 0, "not groups of four"),
        (b"x 2 - a", 0, "start of an external attachment is not a number"),
        (b" 2 - a", 0, "start of an external attachment is not a number"),
        (b"1 -2 - a", 2, "size of an external attachment is not a number"),
        (b"1 1_0 - a", 2, "size of an external attachment is not a number"),
        (b"1 9223372036854775808 - a", 2, "size of an external attachment is not a number"),
        (b"1 " + b"9" * 5000 + b" - a", 2, "size of an external attachment is not a number"),
        (b"9 9223372036854775807 - a", 0, "ends above"),
        (b"1 2  a", 4, "unknown options"),
        (b"1 2 -B4 a", 4, "unknown options"),
        (b"1 2 B a", 4, "unknown options"),
        (b"1 2 D a", 4, "unknown options"),
        (b"1 2 B0 a", 4, "base64 line length is 0"),
        (b"1 2 B78 a", 4, "base64 line length is 78"),
        (b"1 2 B2147483648 a", 4, "base64 line length is 2147483648"),
        (b"1 2 B99999999999999999999 a", 4, "line length of an external attachment"),
        (b"1 2 - ", 6, "unsafe path"),
        (b"1 2 - /etc/passwd", 6, "unsafe path"),
        (b"1 2 - ..", 6, "unsafe path"),
        (b"1 2 - a/../b", 6, "unsafe path"),
        (b"1 2 - a/./b", 6, "unsafe path"),
        (b"1 2 - a//b", 6, "unsafe path"),
        (b"1 2 - a/", 6, "unsafe path"),
        (b"1 2 - a\0b", 6, "unsafe path"),
        (b"10 5 - a 14 1 - b", 9, "begins before 15"),
        (b"10 5 - a 0 1 - b", 9, "begins before 15"),
        (b"10 5 B4 ab/c 15 1 - b/../c", 20, "unsafe path"),
    ],
)
def test_damaged_references(value: bytes, offset: int, reason: str) -> None:
    with pytest.raises(FormatError, match=reason) as caught:
        parse_ext_refs(value)
    assert caught.value.offset == offset
    with pytest.raises(FormatError) as caught:
        parse_ext_refs(value, base=300)
    assert caught.value.offset == 300 + offset


def test_plan_puts_the_parts_between_the_pieces_of_the_body() -> None:
    refs = parse_ext_refs(b"10 5 - a 15 7 - b 30 0 - c 40 1 - d")
    a, b, _, d = refs
    assert plan(refs, 30) == (
        Segment(0, 10, 0),
        Segment(10, 5, a),
        Segment(15, 7, b),
        Segment(22, 8, 10),
        Segment(30, 10, 18),
        Segment(40, 1, d),
        Segment(41, 2, 28),
    )
    assert plan(refs, 28)[-1] == Segment(40, 1, d)


def test_plan_without_parts_and_without_body() -> None:
    assert plan((), 5) == (Segment(0, 5, 0),)
    assert plan((), 0) == ()
    refs = parse_ext_refs(b"0 3 - a")
    assert plan(refs, 0) == (Segment(0, 3, refs[0]),)


def test_part_behind_the_end_of_the_body() -> None:
    refs = parse_ext_refs(b"10 5 - a 17 1 - b")
    assert plan(refs, 12)[-1] == Segment(17, 1, refs[1])
    with pytest.raises(FormatError, match="at 17 begins behind the end of the body") as caught:
        plan(refs, 11)
    assert caught.value.offset == 0


def reference(raw: bytes, line_length: int, crlf: bool) -> bytes:
    text = base64.b64encode(raw)
    lines = [text[i : i + line_length] for i in range(0, len(text), line_length)]
    return (b"\r\n" if crlf else b"\n").join(lines)


@pytest.mark.parametrize("crlf", [False, True])
@pytest.mark.parametrize("line_length", [4, 8, 12, 76])
def test_every_range_of_encoded_parts(line_length: int, crlf: bool) -> None:
    for size in (0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 18, 29):
        raw = bytes(range(100, 100 + size))
        whole = reference(raw, line_length, crlf)
        assert encoded_size(size, line_length, crlf) == len(whole)
        for a in range(len(whole) + 1):
            for b in range(a, len(whole) + 1):
                first, last = raw_range(a, b, line_length, crlf, size)
                assert 0 <= first <= last <= size
                assert last - first <= (b - a) // 4 * 3 + 6
                part = encode_base64_range(memoryview(raw)[first:last], a, b, line_length, crlf)
                assert part == whole[a:b], (size, a, b)


def test_large_part_in_pieces() -> None:
    raw = random.Random(1).randbytes(1_000_001)
    whole = reference(raw, 76, True)
    parts = []
    for a in range(0, len(whole), 65536):
        b = min(a + 65536, len(whole))
        first, last = raw_range(a, b, 76, True, len(raw))
        assert last - first < 50_000
        parts.append(encode_base64_range(raw[first:last], a, b, 76, True))
    assert b"".join(parts) == whole


def test_too_few_raw_bytes_for_a_range() -> None:
    with pytest.raises(ValueError, match="too few"):
        encode_base64_range(b"abc", 0, 8, 76, False)


def test_file_of_the_wrong_size() -> None:
    as_is, encoded = parse_ext_refs(b"0 10 - a 10 10 CB4 b")  # b: two lines of 4 characters, CRLF between
    as_is.check_raw_size(10)
    for raw_size in (4, 5, 6):
        encoded.check_raw_size(raw_size)
    for ref, raw_size in ((as_is, 9), (as_is, 11), (encoded, 3), (encoded, 7), (encoded, 0)):
        with pytest.raises(FormatError, match="expected 10"):
            ref.check_raw_size(raw_size)
