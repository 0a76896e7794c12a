"""Header fields, as people read them."""

from __future__ import annotations

import pytest

from dboxfs.store.headers import parse_fields


@pytest.mark.parametrize(
    ("header", "subject"),
    [
        (b"From: a\nSubject: one\nTo: b", "one"),
        (b"subject:one\r\nFrom: a", "one"),
        (b"Subject: one\n\ttwo\n three", "one two three"),
        (b"Subject: =?utf-8?B?w7ZsZQ==?= =?iso-8859-1?Q?_=E4?=", "öle ä"),
        (b"Subject: caf\xc3\xa9", "café"),
        (b"Subject: caf\xe9", "caf\ufffd"),
        (b"Subject: =?nonsense?B?w7ZsZQ==?=", "öle"),
        (b"Subject: =?utf-8?B?w?=", "=?utf-8?B?w?="),
        (b"Subject: first\nSubject: second", "first"),
        (b"Subject:", ""),
        (b"X-Subject: none", None),
        (b"no header at all", None),
    ],
)
def test_a_field_is_read_as_people_read_it(header: bytes, subject: str | None) -> None:
    assert parse_fields(header, ("subject",)).get("subject") == subject
