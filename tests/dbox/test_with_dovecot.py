"""Bodies that the real Dovecot stored, and odd ones that it is given to read: the codecs say what it says."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest

from dboxfs.dbox import (
    ExtRef,
    ScannedRecord,
    describe,
    detect,
    encode_base64_range,
    encode_file_header,
    encode_message_header,
    encode_metadata,
    next_record,
    parse_ext_refs,
    parse_file_header,
    plan,
    raw_range,
)
from dboxfs.dbox.format2 import FileHeader
from tests.dbox.bodies import PLAIN, decompress, odd_bodies
from tests.live.dovecot import Account, DoveadmError, Dovecot

HEAD = b"From: a@example.org\nSubject: x\n\n"


def plain_messages() -> list[bytes]:
    rnd = random.Random(5)
    return [
        HEAD,
        b"\n",
        HEAD + b"hello\n" * 50,
        HEAD + b"no final newline",
        HEAD + b"a\0b\rc\r\r\nd",
        HEAD + b"7 line of text\n" * 40_000,
        HEAD + base64.encodebytes(rnd.randbytes(300_000)),
    ]


def attachment_message(line_length: int, size: int) -> bytes:
    """Text, a base64 part, a part as it is, another base64 part; all but the text are extracted."""
    rnd = random.Random(size)
    text = base64.b64encode(rnd.randbytes(size))
    lines = b"\n".join(text[i : i + line_length] for i in range(0, len(text), line_length))
    binary = bytes(b for b in rnd.randbytes(180_000) if b not in b"\r\n-")
    kind = b"--B\nContent-Type: application/octet-stream\n"
    return (
        b"Subject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=B\n\n"
        b"--B\nContent-Type: text/plain\n\nhi\n"
        + (kind + b"Content-Transfer-Encoding: base64\n\n" + lines + b"\n")
        + (kind + b"\n" + binary + b"\n")
        + (kind + b"Content-Transfer-Encoding: base64\n\n" + base64.encodebytes(rnd.randbytes(140_001)))
        + b"\n--B--\n"
    )


def attachment(ref: ExtRef, path: Path) -> bytes:
    """The part as the message has it, encoded in pieces."""
    raw = path.read_bytes()
    ref.check_raw_size(len(raw))
    if ref.line_length is None:
        return raw
    parts = []
    for a in range(0, ref.size, 10_007):
        b = min(a + 10_007, ref.size)
        first, last = raw_range(a, b, ref.line_length, ref.crlf, len(raw))
        parts.append(encode_base64_range(raw[first:last], a, b, ref.line_length, ref.crlf))
    return b"".join(parts)


def full_message(data: bytes, record: ScannedRecord, attachments: Path, suffix: str) -> bytes:
    body = data[record.body_offset : record.metadata_offset]
    compression = detect(body)
    if compression is not None:
        body = decompress(compression, body)
    value = record.metadata.ext_refs
    refs = parse_ext_refs(value) if value is not None else ()
    parts = []
    for segment in plan(refs, len(body)):
        if isinstance(segment.source, ExtRef):
            parts.append(attachment(segment.source, attachments / (segment.source.path + suffix)))
        else:
            parts.append(body[segment.source : segment.source + segment.size])
    return b"".join(parts)


def stored(account: Account) -> dict[str, tuple[ScannedRecord, bytes, bytes]]:
    """By guid: the record, its body as stored, the full message; everything that is in the dbox files."""
    guid = account.status()["INBOX"].guid
    found = {}
    for path in account.root.rglob("[um].[0-9]*"):
        data = path.read_bytes()
        header = parse_file_header(data)
        assert isinstance(header, FileHeader)
        suffix = f"-{guid}-{path.name[2:]}" if path.name.startswith("u.") else ""
        offset = header.size
        while offset < len(data):
            record = next_record(data, offset, header)
            assert isinstance(record, ScannedRecord)
            assert record.metadata.guid128 is not None
            body = data[record.body_offset : record.metadata_offset]
            full = full_message(data, record, account.home / "attachments", suffix)
            found[record.metadata.guid128.hex()] = (record, body, full)
            offset += record.size
        assert not any("damage:" in line for line in describe(data))
    return found


@pytest.mark.parametrize("attachment_fs", ["", "sis posix", "posix"])
@pytest.mark.parametrize("zlib_save", ["", "gz", "bz2", "lz4", "zstd"])
@pytest.mark.parametrize("driver", ["sdbox", "mdbox"])
def test_what_dovecot_stores_is_read_exactly(
    dovecot: Dovecot, driver: str, zlib_save: str, attachment_fs: str
) -> None:
    settings = {"zlib_save": zlib_save} if zlib_save else {}
    messages = plain_messages()
    if attachment_fs:
        settings["mail_attachment_dir"] = "{home}/attachments"
        messages = [
            attachment_message(76, 200_000),
            attachment_message(64, 200_002),
            attachment_message(60, 1),
        ]
    if attachment_fs == "posix":
        settings["mail_attachment_fs"] = "posix"  # "sis posix" is the default
    account = dovecot.account(f"{driver}:{{home}}/mail", **settings)
    for message in messages:
        account.save(message)
    found = stored(account)
    fetched = account.fetch()
    assert len(fetched) == len(found) == len(messages)
    for expected in fetched:
        record, body, full = found[expected.guid]
        metadata = record.metadata
        compression = detect(body)
        assert (compression.value if compression else "") == zlib_save
        assert full == expected.text
        assert metadata.received == expected.received
        assert metadata.virtual_size == expected.virtual_size
        physical = record.header.body_size if metadata.physical_size is None else metadata.physical_size
        assert physical == expected.physical_size == len(full)
        assert metadata.orig_mailbox == (b"INBOX" if driver == "mdbox" else None)
        assert len(parse_ext_refs(metadata.ext_refs or b"")) >= 2 if attachment_fs else not metadata.ext_refs


@pytest.mark.expected_log("Error: ")
def test_odd_compressed_bodies_are_read_by_dovecot_or_damaged_for_it_too(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail", zlib_save="gz")
    account.save(PLAIN)
    (path,) = account.root.rglob("u.1")
    virtual_size = len(PLAIN) + PLAIN.count(b"\n")
    read = {name: odd for name, odd in odd_bodies().items() if odd.kind.value in dovecot.dialect.compressions}
    assert len(read) >= 12
    for name, odd in read.items():
        metadata = [
            (b"Z", b"%x" % len(PLAIN)),
            (b"R", b"1"),
            (b"V", b"%x" % virtual_size),
            (b"G", b"0" * 31 + b"1"),
        ]
        data = encode_file_header(1) + encode_message_header(len(odd.body)) + odd.body
        path.write_bytes(data + encode_metadata(metadata))
        account.forget_cache()
        if odd.error is None:
            assert account.doveadm("fetch", "text", "uid", "1") == b"text:\n" + PLAIN, name
        else:
            with pytest.raises(DoveadmError):
                account.doveadm("fetch", "text", "uid", "1")


def test_files_that_we_encode_are_read_by_dovecot(dovecot: Dovecot) -> None:
    account = dovecot.account("sdbox:{home}/mail")
    account.save(PLAIN)
    (path,) = account.root.rglob("u.1")
    metadata = [
        (b"R", b"6b00ae6d"),
        (b"q", b"unknown"),
        (b"V", b"%x" % (len(PLAIN) + PLAIN.count(b"\n"))),
        (b"G", b"some text"),
    ]
    record = encode_message_header(len(PLAIN)) + PLAIN + encode_metadata(metadata)
    path.write_bytes(encode_file_header(1795206765) + record)
    account.forget_cache()
    (message,) = account.fetch()
    assert message.text == PLAIN
    assert message.guid == "some text"
    assert message.received == 1795206765
