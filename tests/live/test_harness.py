"""The harness itself: what it reports is what was saved, and it notices what goes wrong."""

from __future__ import annotations

import pytest

from tests.live import corpus
from tests.live.dovecot import Append, DoveadmError, Dovecot, parse_pager


def as_stored(data: bytes) -> bytes:
    """The rule of dbox-files section 1.3: the CR directly before a LF is dropped once, so is a final CR."""
    return data.replace(b"\r\n", b"\n").removesuffix(b"\r")


@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_fetched_text_is_what_was_saved_in_stored_form(dovecot: Dovecot, driver: str) -> None:
    account = dovecot.account(f"{driver}:{{home}}/mail")
    messages = corpus.real() | corpus.nasty()
    assert len(corpus.real()) == 103
    account.append(corpus.with_flags(messages))
    fetched = account.fetch()
    assert [m.uid for m in fetched] == list(range(1, len(messages) + 1))
    for (name, data), message in zip(messages.items(), fetched, strict=True):
        assert message.text == as_stored(data), name
    assert account.status()["INBOX"].messages == len(messages)


def test_flags_and_dates_given_to_append_are_reported(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.append([Append(b"Subject: x\n\n", r"\Seen \Answered Work", "02-Feb-2026 12:34:56 +0200")])
    (message,) = account.fetch()
    assert (message.flags, message.keywords) == (r"\Answered \Seen", "Work")
    assert message.received == 1770028496


def test_pager_text_is_delimited_by_size_alone() -> None:
    first = b"uid: 1\npop3.uidl:\nsize.physical: 10\ntext:\na\n\f\nuid: 2"
    second = b"uid: 2\nsize.physical: 0\ntext:\n"
    assert parse_pager(first + b"\f\n" + second) == [
        ({"uid": "1", "pop3.uidl": "", "size.physical": "10"}, b"a\n\f\nuid: 2"),
        ({"uid": "2", "size.physical": "0"}, b""),
    ]
    with pytest.raises(ValueError, match="longer"):
        parse_pager(first + b"x" + b"\f\n" + second)
    with pytest.raises(ValueError, match="shorter"):
        parse_pager(first[:-1])


@pytest.mark.expected_log("nosuchfield")
def test_a_failing_doveadm_raises_with_its_reason(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    with pytest.raises(DoveadmError, match="status"):
        account.doveadm("fetch", "nosuchfield", "all")
