"""The messages that stores are made of: real ones from ``tests/data/mail`` and made up nasty ones.

All are the same in every run.  The bytes are what is handed to Dovecot, not what it stores: Dovecot
drops a CR that directly precedes a LF, and a final CR.  What the stored bytes are is for Dovecot to say.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

from tests.live.dovecot import Append

MAIL = Path(__file__).parent.parent / "data" / "mail"

_HEADER = b"From: a@example.org\nTo: b@example.org\nSubject: nasty\nDate: Mon, 2 Feb 2026 10:00:00 +0000\n"
_RECORD_HEADER = b"\x01\x02N          %016X\n"
_METADATA = b"\n\x01\x03\nR6b00a985\nV1f\nG0123456789abcdef0123456789abcdef\n\n"

_FLAGS = (
    "",
    r"\Seen",
    r"\Answered \Seen",
    r"\Flagged $Label1",
    r"\Draft \Seen Work",
    r"\Deleted \Answered \Flagged \Seen \Draft",
    r"$Forwarded \Seen Work NonJunk",
    "a b c d e f g h i j",
)
_DATES = (
    "",
    "01-Jan-1971 00:00:00 +0000",
    "29-Feb-2024 23:59:59 -0930",
    "19-Jan-2038 03:14:08 +0000",
    "31-Dec-2025 23:59:60 +0000",
    "02-Feb-2026 12:34:56 +0200",
)


def real() -> dict[str, bytes]:
    """The real messages by name."""
    return {path.stem: path.read_bytes() for path in sorted(MAIL.glob("*.eml"))}


def nasty() -> dict[str, bytes]:
    """Made up messages by name, all below 2 MB."""
    rng = random.Random(1)
    eight_bit = bytes(b for b in range(128, 256)) * 3
    body = {
        "empty-body": b"",
        "one-newline": b"\n",
        "no-final-newline": b"no newline at the end",
        "final-cr": b"text\r",
        "long-line": b"x" * 1_048_576 + b"\n",
        "long-line-no-newline": b"y" * 1_048_577,
        "nul": b"a\0b\0\0c\n\0\n\0",
        "bare-cr": b"a\rb\r\rc\n",
        "cr-crlf": b"a\r\r\nb\r\r\r\nc\r\n",
        "lf": b"a\nb\n\n\nc\n",
        "mixed-line-ends": b"a\nb\r\nc\rd\n\r\n\r",
        "crlf-over-buffer-edges": b"".join(b"z" * (n % 97) + b"\r\n" for n in range(8000)),
        "eight-bit": eight_bit + b"\n" + eight_bit,
        "all-bytes": bytes(range(256)) * 40,
        "random-bytes": rng.randbytes(300_000),
        "not-utf-8": "J\xfcrgen".encode("latin-1") + b"\n" + "日本語".encode("shift_jis") + b"\xff\xfe\n",
        "metadata-magic": b"before\n\x01\x03\nafter\n" * 3,
        "metadata-magic-at-the-end": b"body\n\x01\x03\n",
        "metadata-block": b"body" + _METADATA + b"still the body\n",
        "record-header": b"line\n" + _RECORD_HEADER % 5 + b"hello" + _METADATA + b"tail\n",
        "dbox-file": b"2 M1e C6b00a985\n" + _RECORD_HEADER % 5 + b"hello" + _METADATA,
        "gzip-magic-inside": b"\n\x1f\x8b\x08\x00 (\xb5/\xfd BZh9 Dovecot-LZ4\x0d*\x9b\xc5",
        "from-lines": b"\nFrom a@b Mon Jan  1 00:00:00 2020\n>From x\nFrom \n",
        "dots": b".\n..\n...\r\n.\r\n",
        "form-feeds": b"body\n\f\nuid: 7\ntext:\n\f\n",
        "trailing-blanks": b"a \t \n \n\t\n",
    }
    messages = {name: _HEADER + b"\n" + text for name, text in body.items()}
    for size in (4095, 4096, 4097, 8192, 65535, 65536, 131071, 131072, 131073):
        head = _HEADER + b"\n"
        messages[f"size-{size}"] = head + b"s" * (size - len(head) - 1) + b"\n"
    messages |= {
        "empty": b"",
        "newline-only": b"\n",
        "one-byte": b"x",
        "header-only": _HEADER,
        "header-without-newline": _HEADER[:-1],
        "no-header": b"\nonly a body\n",
        "starts-with-record-header": _RECORD_HEADER % 3 + b"abc" + _METADATA,
        "starts-with-metadata-magic": _METADATA + b"x\n",
        "starts-with-from-line": b"From a@b Mon Jan  1 00:00:00 2020\n" + _HEADER + b"\nbody\n",
        "long-header": b"X-Long: " + b"h" * 200_000 + b"\n" + _HEADER + b"\nbody\n",
        "nul-in-header": b"Subject: a\0b\n\nbody\n",
        "crlf-throughout": _HEADER.replace(b"\n", b"\r\n") + b"\r\nbody\r\n\r\nend",
    }
    return messages


def huge() -> bytes:
    """A message of 40 MB with lines of every length, dbox magic bytes among them, and CRLF line ends."""
    rng = random.Random(2)
    block = (
        b"".join(base64.b64encode(rng.randbytes(rng.randrange(200))) + b"\r\n" for _ in range(5000))
        + b"\x01\x03\n\x01\x02N \r\n"
    )
    text = _HEADER.replace(b"\n", b"\r\n") + b"\r\n" + block * (40_000_000 // len(block) + 1)
    return text[:40_000_000]


def attachments() -> dict[str, bytes]:
    """Messages with MIME parts above 128 KiB, which ``mail_attachment_dir`` moves out of the message."""
    rng = random.Random(3)
    data = rng.randbytes(200_000)

    def base64_lines(width: int, end: bytes) -> bytes:
        text = base64.b64encode(data)
        return end.join(text[n : n + width] for n in range(0, len(text), width))

    def multipart(*parts: bytes, end: bytes = b"\n") -> bytes:
        head = _HEADER + b'MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="=="\n\n'
        text = head + b"preamble\n"
        for part in parts:
            text += b"--==\nContent-Type: text/plain\n\nhello\n--==\n" + part + b"\n"
        return (text + b"--==--\nepilogue\n").replace(b"\r\n", b"\n").replace(b"\n", end)

    encoded = b"Content-Type: application/x-data\nContent-Transfer-Encoding: base64\n\n"
    binary = b"Content-Type: application/x-data\nContent-Transfer-Encoding: 8bit\n\n"
    return {
        "base64-76": multipart(encoded + base64_lines(76, b"\n")),
        "base64-76-crlf": multipart(encoded + base64_lines(76, b"\n"), end=b"\r\n"),
        "base64-60": multipart(encoded + base64_lines(60, b"\n")),
        "base64-newline-after": multipart(encoded + base64_lines(76, b"\n") + b"\n"),
        "base64-not-reproducible": multipart(encoded + base64_lines(77, b"\n") + b"\n \n"),
        "two-parts": multipart(
            encoded + base64_lines(72, b"\n"), binary + b"plain data, many lines\n" * 9000
        ),
        "same-part-twice": multipart(encoded + base64_lines(76, b"\n"), encoded + base64_lines(76, b"\n")),
        "eight-bit": multipart(binary + rng.randbytes(180_000).replace(b"\n", b"").replace(b"\0", b"")),
        "text-stays-inline": multipart(b"Content-Type: text/plain\n\n" + b"text line\n" * 20_000),
    }


def with_flags(messages: dict[str, bytes]) -> list[Append]:
    """The messages, each with other flags, keywords and received date than its neighbours."""
    return [
        Append(data, _FLAGS[n % len(_FLAGS)], _DATES[n % len(_DATES)])
        for n, data in enumerate(messages.values())
    ]
