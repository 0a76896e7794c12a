"""Names and files of a Maildir; the lines are those of a Dovecot 2.3.19."""

from __future__ import annotations

import pytest

from dboxfs.errors import FormatError
from dboxfs.tools.formats.maildir import (
    Listed,
    encode_keywords,
    encode_listed,
    encode_uidlist_header,
    file_name,
    flags_of,
    parse_keywords,
    parse_uidlist,
    size_of,
)

UIDLIST = (
    b"3 V1795991171 N3 G5be2c10183a60c6bb638000083ecc375\n"
    b"1 :1795991171.M27739P14518.vm,S=21,W=25\n"
    b"5 G1111111111111111111111111111aaaa W22 Puidl5 O7 :1.a.host,S=20,W=22\n"
)


def test_a_uidlist_gives_uids_guids_sizes_and_pop3() -> None:
    found = parse_uidlist(UIDLIST)
    assert (found.uid_validity, found.guid) == (
        1795991171,
        bytes.fromhex("5be2c10183a60c6bb638000083ecc375"),
    )
    assert found.messages == {
        b"1795991171.M27739P14518.vm,S=21,W=25": Listed(1),
        b"1.a.host,S=20,W=22": Listed(5, b"1111111111111111111111111111aaaa", 22, b"uidl5", 7),
    }


def test_the_next_uid_is_behind_the_records_whatever_the_header_says() -> None:
    assert parse_uidlist(UIDLIST).next_uid == 6


def test_a_line_that_was_not_finished_does_not_count() -> None:
    assert len(parse_uidlist(UIDLIST + b"6 :half").messages) == 2


def test_a_uid_that_is_there_twice_is_told_and_the_first_counts() -> None:
    found = parse_uidlist(UIDLIST + b"5 :another\nno line\n")
    assert b"another" not in found.messages
    assert [line.split(":")[0] for line in found.doubtful] == [
        "line 4 of the uidlist",
        "line 5 of the uidlist can't be read",
    ]


def test_version_1_has_uids_only() -> None:
    found = parse_uidlist(b"1 99 8\n7 name:2,S\n")
    assert (found.uid_validity, found.next_uid, found.messages) == (99, 8, {b"name": Listed(7)})


@pytest.mark.parametrize("data", [b"", b"no header\n", b"3 Vx N1\n", b"3 V99999999999 N1\n"])
def test_what_is_no_uidlist_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_uidlist(data)


def test_what_is_written_is_read() -> None:
    listed = Listed(5, b"guid", None, b"uidl", 7)
    data = encode_uidlist_header(9, 20, bytes(range(16))) + encode_listed(listed, b"base,S=3")
    found = parse_uidlist(data)
    assert (found.uid_validity, found.next_uid, found.guid) == (9, 20, bytes(range(16)))
    assert found.messages == {b"base,S=3": listed}
    assert parse_keywords(encode_keywords(["$Label1", "Work"])) == {0: "$Label1", 1: "Work"}
    name = file_name(b"base,S=3", 0x1F, [1, 0])
    assert name == b"base,S=3:2,DFRSTab"
    assert flags_of(name, {0: "x", 1: "y"}) == (0x1F, ("x", "y"))
    assert size_of(name) == 3


def test_letters_without_a_keyword_and_flags_of_others_mean_nothing() -> None:
    assert flags_of(b"base:2,Pz,Xy", {0: "x"}) == (0, ())
    assert flags_of(b"base", {0: "x"}) == (0, ())
