"""Which parts are cut out of a message: those that the real Dovecot cuts out, with the same references."""

from __future__ import annotations

import base64
import random
import re

import pytest

from dboxfs.dbox import parse_ext_refs
from dboxfs.dbox.attachments import encode_base64_range
from dboxfs.dbox.cutting import Cutting, cut, parse_hash
from tests.live import corpus
from tests.live.dovecot import Append, Dovecot

MIN = 2048
DATA = random.Random(5).randbytes(3000)
LINES = base64.encodebytes(DATA)
BASE64 = b"Content-Transfer-Encoding: base64\n"
PDF = b"Content-Type: application/pdf\n"


def multipart(*parts: bytes, kind: bytes = b"mixed", boundary: bytes = b"=b=", quote: bytes = b'"') -> bytes:
    text = b"MIME-Version: 1.0\nContent-Type: multipart/" + kind + b"; boundary=" + quote + boundary + quote
    return (
        text + b"\n\n" + b"".join(b"--%b\n%b\n" % (boundary, part) for part in parts) + b"--%b--\n" % boundary
    )


INNER = b"Subject: inner\n" + multipart(PDF + BASE64 + b"\n" + LINES, boundary=b"in")
MESSAGES = {
    **corpus.attachments(),
    "the whole body": b"Subject: x\n" + PDF + BASE64 + b"\n" + LINES,
    "no type": b"Subject: x\n" + multipart(BASE64 + b"\n" + LINES),
    "type in capitals": multipart(
        b"CONTENT-TYPE: Image/PNG; name=x\nContent-transfer-encoding:BASE64\n\n" + LINES
    ),
    "folded": multipart(b"Content-Type:\n\timage/png;\n name=x\n" + BASE64 + b"\n" + LINES),
    "html": multipart(b"Content-Type: text/html\n" + BASE64 + b"\n" + LINES),
    "a comment in the encoding": multipart(PDF + b"Content-Transfer-Encoding: base64 (x)\n\n" + LINES),
    "base64 that is not said": multipart(PDF + b"\n" + LINES),
    "a message in it": multipart(b"Content-Type: message/rfc822\n\n" + INNER, PDF + b"\n" + b"x" * 3000),
    "a digest": multipart(b"\n" + INNER, kind=b"digest", boundary=b"out"),
    "the same boundary inside": multipart(multipart(PDF + BASE64 + b"\n" + LINES), PDF + b"\n" + b"y" * 3000),
    "a boundary that begins like another": multipart(
        multipart(PDF + BASE64 + b"\n" + LINES, boundary=b"ab"), PDF + b"\n" + b"y" * 3000, boundary=b"a"
    ),
    "no last boundary": multipart(PDF + BASE64 + b"\n" + LINES).partition(b"--=b=--")[0],
    "an attached text file": multipart(
        b"Content-Type: text/plain\nContent-Disposition: attachment; filename=x\n\n" + b"z\n" * 2000
    ),
    "just too small": multipart(PDF + b"\n" + b"x" * (MIN - 1)),
    "just large enough": multipart(PDF + b"\n" + b"x" * MIN),
    "empty lines behind": multipart(PDF + BASE64 + b"\n" + LINES + b"\n" * 40),
    "words behind": multipart(PDF + BASE64 + b"\n" + LINES + b"-- \nan advertisement\n"),
    "one long line": multipart(PDF + BASE64 + b"\n" + base64.b64encode(DATA)),
    "no newline at the end": b"Subject: x\n" + PDF + BASE64 + b"\n" + LINES.rstrip(b"\n"),
    "no quotes": multipart(PDF + BASE64 + b"\n" + LINES, boundary=b"plain", quote=b""),
    "parts beside each other": multipart(PDF + BASE64 + b"\n" + LINES, PDF + BASE64 + b"\n" + LINES),
    "nothing": b"Subject: x\n\ntext\n",
}


def shape(refs: bytes) -> list[tuple[int, int, str, str]]:
    """References without the random number in each name."""
    return [(r.start, r.size, r.options, r.path.rpartition("-")[0]) for r in parse_ext_refs(refs)]


def test_the_parts_are_those_that_dovecot_cuts_out(dovecot: Dovecot) -> None:
    account = dovecot.account(
        "sdbox:{home}/mail", mail_attachment_dir="{home}/attachments", mail_attachment_min_size="2k"
    )
    account.append([Append(text) for text in MESSAGES.values()])
    texts = [message.text for message in account.fetch()]
    differ = {}
    for uid, (name, text) in enumerate(zip(MESSAGES, texts, strict=True), 1):
        stored = (account.root / f"mailboxes/INBOX/dbox-Mails/u.{uid}").read_bytes()
        refs = re.findall(rb"^X(.*)$", stored[stored.rindex(b"\n\x01\x03\n") :], re.MULTILINE)
        found = cut(text, Cutting(MIN))
        ours, theirs = shape(found.refs) if found else [], shape(refs[0]) if refs else []
        if ours != theirs:
            differ[name] = ours, theirs
    assert differ == {}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_parts_put_back_give_the_message(name: str) -> None:
    text = MESSAGES[name]
    found = cut(text, Cutting(100, "sha256", 80))
    if found is None:
        assert name in ("nothing", "html", "an attached text file", "text-stays-inline", "no type")
        return
    whole, done = b"", 0
    for ref, part in zip(parse_ext_refs(found.refs), found.parts, strict=True):
        ref.check_raw_size(len(part.data))
        gap = ref.start - len(whole)
        whole, done = whole + found.rest[done : done + gap], done + gap
        data = part.data
        if ref.line_length is not None:
            data = encode_base64_range(data, 0, ref.size, ref.line_length, ref.crlf)
        whole += data
        assert re.fullmatch(r"(..)/(..)/\1\2[0-9a-f]{16}-[0-9a-f]{32}", part.path)
    assert whole + found.rest[done:] == text


def test_the_form_of_names_is_that_of_the_setting() -> None:
    assert parse_hash("%{sha1}") == ("sha1", None)
    assert parse_hash("%{sha256:80}") == ("sha256", 80)
    for unknown in ("%{md4}", "%{sha1:8}", "%{sha1:30}", "sha1", "%{sha1}x"):
        assert parse_hash(unknown) is None
