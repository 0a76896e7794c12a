"""What a new file is told that it shall be is checked when it is told, and given back as it was."""

from __future__ import annotations

import errno

import pytest

from dboxfs.vfs.brought import Brought, folder_guid, number
from dboxfs.vfs.errors import Refused


def refused(number: int) -> pytest.RaisesExc[Refused]:
    return pytest.RaisesExc(Refused, check=lambda error: error.errno == number)


GOOD = [
    ("flags", b"\\Seen \\flagged", "\\Flagged \\Seen"),
    ("keywords", b"$Label other", "$Label other"),
    ("guid", b"b82af11261c8006b4948000083ecc375", "b82af11261c8006b4948000083ecc375"),
    ("guid", b"4711.maildir:2,S", "4711.maildir:2,S"),
    ("saved", b"2001-02-03T04:05:06Z", "2001-02-03T04:05:06Z"),
    ("received", b"1960-01-01T00:00:00Z", "1960-01-01T00:00:00Z"),
    ("received", b"@253402300800", "@253402300800"),
    ("uid", b"4294967294", "4294967294"),
    ("pop3_uidl", b"uidl 1", "uidl 1"),
    ("orig_mailbox", b"Entw&APw-rfe", "Entw&APw-rfe"),
]


@pytest.mark.parametrize(("name", "value", "text"), GOOD)
def test_a_value_comes_back_as_it_was_told(name: str, value: bytes, text: str) -> None:
    told = Brought().told(name, value)
    assert (told.names, told.value(name)) == ([name], text)
    assert told.without(name) == Brought()
    assert Brought().told(name, text.encode()) == told


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("flags", b"Seen"),
        ("flags", b"\xff"),
        ("flags", b"\\Recent"),
        ("keywords", b"a(b"),
        ("guid", b""),
        ("guid", b"a\nb"),
        ("guid", b"x" * 256),
        ("saved", b"1969-12-31T23:59:59Z"),
        ("saved", b"2106-02-07T06:28:16Z"),
        ("saved", b"yesterday"),
        ("saved", b"2001-02-30T00:00:00Z"),
        ("received", b"2001-02-03"),
        ("uid", b"0"),
        ("uid", b"4294967295"),
        ("uid", b"-1"),
        ("uid", b"\xb2"),
        ("uid", b"1" * 5000),
        ("pop3_uidl", b"a\x00"),
        ("orig_mailbox", b""),
        ("colour", b"red"),
        ("messages", b"5"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name: str, value: bytes) -> None:
    with refused(errno.EINVAL):
        Brought().told(name, value)


@pytest.mark.parametrize("name", ["virtual_size", "modseq", "location"])
def test_what_only_informs_is_taken_and_changes_nothing(name: str) -> None:
    assert Brought(uid=5).told(name, b"anything") == Brought(uid=5)


def test_an_attribute_that_is_not_set_cannot_be_removed() -> None:
    assert Brought(flags=8).without("flags").without("flags") == Brought()
    for name in ("uid", "guid", "modseq", "unknown"):
        with refused(errno.ENODATA):
            Brought(flags=8).without(name)


@pytest.mark.parametrize("value", [b"", b"00" * 16, b"xy" * 16, b"ab" * 15, b"ab " * 16])
def test_the_guid_of_a_mailbox_has_32_hex_digits(value: bytes) -> None:
    with refused(errno.EINVAL):
        folder_guid(value)
    assert folder_guid(b"0a" * 16) == b"\n" * 16


def test_a_number_has_its_limits() -> None:
    assert number(b"4294967295", 0xFFFFFFFF) == 0xFFFFFFFF
    for value in (b"4294967296", b"0", b"1.0", b""):
        with refused(errno.EINVAL):
            number(value, 0xFFFFFFFF)
