"""From_ lines and the header lines of an mbox's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dboxfs.tools.formats.mbox import Own, encode_from_line, encode_own, parse_from_line, take_own


@pytest.mark.parametrize("seconds", [-315_583_200, 0, 1_277_971_200, 4_417_930_800])
def test_a_date_comes_back_from_its_line(seconds: int) -> None:
    assert parse_from_line(encode_from_line(seconds).rstrip(b"\n")) == seconds


@pytest.mark.parametrize(
    ("line", "seconds"),
    [
        (b"From u@h  Thu Jul 01 08:00:00 2010 +0200", 1277971200 - 7200),
        (b"From u@h Thu Jul  1 08:00:00 2010 -0130", 1277971200 + 5400),
        (b"From u@h Thu Jul 01 08:00:00 +0000 2010", 1277971200),
        (b"From 17 (x y)@h Thu, 1 Jul 2010 08:00:00 +0000", 1277971200),
    ],
)
def test_dates_that_other_programs_write_are_understood(line: bytes, seconds: int) -> None:
    assert parse_from_line(line) == seconds


@pytest.mark.parametrize(
    "line",
    [
        b"From me to you",
        b"From Thu Jul  1 08:00:00 2010",
        b"From u@h Thu Jul 32 08:00:00 2010 +0000x",
        b"From u@h Thu Foo 01 08:00:00 2010",
        b"",
    ],
)
def test_a_line_of_a_text_is_no_from_line(line: bytes) -> None:
    assert parse_from_line(line) is None


def test_a_date_without_a_zone_is_local_time(time_zone: Callable[[str], None]) -> None:
    time_zone("XXX-03")
    assert parse_from_line(b"From u@h  Thu Jul 01 08:00:00 2010") == 1277971200 - 3 * 3600


def test_own_header_lines_come_back() -> None:
    lines = encode_own(17, 0x1B, ("Work", "$Label1"), 42, (777, 30, ("Work", "$Label1")))
    assert lines.startswith(b"X-IMAPbase: 777 0000000030 Work $Label1\n")
    own = Own()
    for line in lines.splitlines(keepends=True):
        take_own(own, line)
    assert own == Own(0x1B, ("Work", "$Label1"), 17, 42, (777, 30), False)
