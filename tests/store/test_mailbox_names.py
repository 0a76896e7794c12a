"""Mailbox names: every storage part has one shown name, and it leads back to that part alone."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from dboxfs.store.mailbox_names import (
    NameCoding,
    decode_mutf7,
    display_name,
    encode_mutf7,
    shown_part,
    storage_part,
)

_RAW = st.binary(min_size=1, max_size=40)
# Where escapes could meet escapes: the characters that matter, close together.
_TRICKY = st.text("&-%25EeAOkwC8.m\x01\n\x7f,+é€𝄞", min_size=1, max_size=14).map(str.encode)
_ENCODED = st.text(min_size=1, max_size=12).filter(lambda text: text.isprintable()).map(encode_mutf7)
PARTS = st.one_of(_RAW, _TRICKY, _ENCODED).filter(lambda raw: not re.search(rb"[/\0]", raw))

ODD = (
    b".", b"..", b".dboxfs", b"5.eml", b"05.eml", b"%2E", b"%", b"%%41", b"&AAA-", b"&AC8-", b"&-", b"&",
    b"&AOk", b"&AOk-&", b"\x01", b"&AAE-", b"a\nb", b"\xe9", b"\xc3\xa9", b"\xed\xa0\x80", b"&2D8-", b"%\xe9",
)  # fmt: skip


@pytest.mark.parametrize("utf8", [False, True])
def test_every_part_is_shown_under_a_name_that_leads_back(utf8: bool) -> None:
    @settings(max_examples=300, deadline=None)
    @given(PARTS)
    def check(raw: bytes) -> None:
        part = os.fsdecode(raw)
        shown = shown_part(part, utf8=utf8)
        assert os.fsencode(storage_part(shown, utf8=utf8)) == raw
        assert shown.encode("utf-8").find(b"/") < 0
        assert "\0" not in shown
        assert shown not in ("", ".", "..", ".dboxfs")
        assert re.fullmatch(r"[0-9]+\.eml", shown) is None

    for raw in ODD:
        check = example(raw)(check)
    check()


@pytest.mark.parametrize("utf8", [False, True])
def test_no_two_parts_are_shown_equal(utf8: bool) -> None:
    shown: dict[str, bytes] = {}
    for first in range(1, 256):
        for second in (None, *range(1, 256)):
            raw = bytes([first] if second is None else [first, second])
            if b"/" not in raw:
                name = shown_part(os.fsdecode(raw), utf8=utf8)
                assert shown.setdefault(name, raw) == raw
    for raw in ODD:
        name = shown_part(os.fsdecode(raw), utf8=utf8)
        assert shown.setdefault(name, raw) == raw


ESCAPES = ("^", "\\", "%", "~")


@pytest.mark.parametrize("escape", ESCAPES)
def test_with_an_escape_character_every_part_is_shown_under_a_name_that_leads_back(escape: str) -> None:
    tricky = st.text(f"{escape}~./5c2f4eE1%&-é", min_size=1, max_size=8).map(str.encode)

    @settings(max_examples=200, deadline=None)
    @given(st.one_of(PARTS, tricky), st.booleans())
    def check(raw: bytes, utf8: bool) -> None:
        coding = NameCoding(utf8, escape)
        stored = coding.escaped(raw)
        assert coding.plain(stored) == raw
        assert b"/" not in stored
        assert stored not in (b".", b"..", b"dbox-Mails")
        shown = coding.shown_part(os.fsdecode(stored))
        assert coding.storage_part(shown) == os.fsdecode(stored)
        assert "/" not in shown
        assert shown not in ("", ".", "..", ".dboxfs")
        if b"/" not in raw:
            as_it_is = os.fsdecode(raw)  # in a store that did not always have that character
            assert coding.storage_part(coding.shown_part(as_it_is)) == as_it_is
            assert (shown == coding.shown_part(as_it_is)) == (stored == raw)

    for raw in (b"..", b".", b"~", b"dbox-Mails", b"a/b", b"\\2f", b"^5e", b"%00a", b"%2541"):
        check = example(raw, False)(check)
    check()


@pytest.mark.parametrize(
    ("stored", "shown"),
    [("a^5eb", "a^b"), ("^7etilde", "~tilde"), ("^2e.", "%2E."), ("^64box-Mails", "dbox-Mails"),
     ("with^2fslash", "with%2Fslash"), ("Tr&AOQ-s", "Träs"), ("a^41", "%00a^41"), ("^2F", "%00^2F")],
)  # fmt: skip
def test_parts_as_dovecot_escapes_them(stored: str, shown: str) -> None:
    assert NameCoding(escape="^").shown_part(stored) == shown


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_modified_utf7_goes_both_ways(text: str) -> None:
    assume(not re.search("[\ud800-\udfff]", text))
    raw = encode_mutf7(text)
    assert re.fullmatch(rb"[\x20-\x7e]*", raw) is not None
    assert decode_mutf7(raw) == text


# RFC 3501 section 5.1.3 gives the first; the others are canonical forms by its rules.
@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
        (b"Tr&AOk-s", "Trés"),
        (b"Jack &- Jill", "Jack & Jill"),
        (b"&2DzfFA-", "🌔"),
    ],
)
def test_modified_utf7_is_that_of_rfc_3501(raw: bytes, name: str) -> None:
    assert decode_mutf7(raw) == name
    assert encode_mutf7(name) == raw


@pytest.mark.parametrize(
    "raw", [b"&", b"&AOk", b"&AC8-", b"&AOk-&AOk-", b"\xc3\xa9", b"\x01", b"&2D8-", b"&A-"]
)
def test_what_is_not_canonical_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_mutf7(raw)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"Tr&AOk-s", "Trés"),
        (b"5.eml", "5%2Eeml"),
        (b"5%2Eeml", "5%252Eeml"),
        (b"a&AC8-b", "a%26AC8-b"),
        (b"50%", "50%"),
        (b"\xe9t\xe9", "%E9t%E9"),
        (b".dboxfs", "%2Edboxfs"),
        (b"two\nlines", "two%0Alines"),
    ],
)
def test_names_are_escaped_only_where_they_must_be(raw: bytes, shown: str) -> None:
    assert shown_part(os.fsdecode(raw), utf8=False) == shown


def test_the_full_name_is_decoded_part_by_part() -> None:
    assert display_name("Tr&AOk-s/5.eml/50%25", utf8=False) == "Trés/5.eml/50%25"
    assert display_name("a/b", utf8=True, separator=".") == "a.b"
    assert display_name(os.fsdecode(b"\xe9/\xc3\xa9"), utf8=True) == "%E9/é"


def test_what_no_part_can_be_is_refused() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        storage_part("\udce9", utf8=True)
