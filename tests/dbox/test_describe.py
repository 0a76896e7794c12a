"""The dump: every part with its offset, damage on one line, going on behind it."""

from __future__ import annotations

from dboxfs.dbox import describe, encode_file_header, encode_message_header, encode_metadata
from tests.dbox.golden3 import page_example
from tests.dbox.vectors import MDBOX_M1, SDBOX_U1


def lines(data: bytes | bytearray) -> list[str]:
    return list(describe(data))


def message(body: bytes, *items: tuple[bytes, bytes]) -> bytes:
    return encode_message_header(len(body)) + body + encode_metadata(items)


def test_file_that_dovecot_wrote() -> None:
    assert lines(SDBOX_U1) == [
        "dbox file, 174 bytes",
        "file header: offset 0, 16 bytes: version 2, message header size 30, "
        "created 2026-11-20T20:32:45Z (1795206765)",
        "record 1: offset 16, 158 bytes, to 174",
        "  header: offset 16, 30 bytes: type N",
        "  body: offset 46, 75 bytes, plain, begins 46 72 6f 6d 3a 20 61 6e",
        "  metadata: offset 121, 53 bytes",
        "    R 6b00ae6d  (received 2026-11-20T20:32:45Z (1795206765))",
        "    V 51  (virtual size 81 bytes, with CRLF)",
        "    G ded684266dae006b9874000083ecc375  (guid, in indexes ded684266dae006b9874000083ecc375)",
        "end: 1 records, 0 damaged places",
    ]


def test_several_records() -> None:
    out = lines(MDBOX_M1)
    assert "record 1: offset 16, 165 bytes, to 181" in out
    assert "record 2: offset 181, 165 bytes, to 346" in out
    assert out.count("    B INBOX  (mailbox of the first save)") == 2
    assert not any("damage:" in line for line in out)


def test_every_key_is_explained() -> None:
    data = encode_file_header(0) + message(
        b"\x1f\x8b\x08",
        (b"Z", b"10"),
        (b"P", b"uidl"),
        (b"O", b"7"),
        (b"G", b"abc"),
        (b"G", b""),
        (b"X", b"1 2 - a/b 5 8 CB4 c\xff/\xc3\xa4"),
        (b"K", b"old"),
        (b"q", b"\x1b[31m\xe2\x80\xae" + b"x" * 1000),
        (b"R", b"ffffffffffffff"),
    )
    assert lines(data)[4:] == [
        "  body: offset 39, 3 bytes, compressed (gz), begins 1f 8b 08",
        "  metadata: offset 42, 1081 bytes",
        "    Z 10  (physical size 16 bytes, plain, with LF)",
        "    P uidl  (POP3 UIDL)",
        "    O 7  (POP3 order 7)",
        "    G abc  (guid, in indexes 4706816aba3e25717850c26c9cd0d89d)",
        "    G   (guid, empty)",
        r"    X 1 2 - a/b 5 8 CB4 c\xff/ä  (external attachments)",
        "      attachment at 1, 2 bytes, as it is: a/b",
        r"      attachment at 5, 8 bytes, base64, 4 characters a line, CRLF: c\xff/ä",
        "    K old  (obsolete key of version 1, ignored)",
        rf"    q \x1b[31m\u202e{'x' * 192}… (1008 bytes)  (unknown key)",
        "    R ffffffffffffff  (received 72057594037927935)",
        "end: 1 records, 0 damaged places",
    ]


def test_damaged_values_are_shown_in_their_place() -> None:
    data = encode_file_header(0) + message(b"", (b"R", b"x"), (b"X", b"1 2 - /a"))
    out = lines(data)
    # file header 9, message header 30, magic 4
    assert out[6] == "    R x  (damage: offset 44: metadata R is not a hexadecimal number: b'x')"
    assert out[8] == "      damage: offset 53: unsafe path of an external attachment: b'/a'"


def test_goes_on_behind_damage() -> None:
    data = bytearray(MDBOX_M1 + MDBOX_M1[16:])
    data[181] = 0
    out = lines(data)
    assert out[10:13] == [
        "damage: offset 181: message header is not written yet (NULs)",
        "skipped: 165 bytes from offset 181",
        "record 2: offset 346, 165 bytes, to 511",
    ]
    assert out[-1] == "end: 3 records, 1 damaged places"


def test_damaged_size_does_not_hide_the_records_behind_it() -> None:
    data = bytearray(MDBOX_M1)
    data[29:45] = b"00000000FFFFFFFF"
    out = lines(data)
    assert (
        out[2]
        == f"damage: offset 16: record is truncated, bytes missing: at least {46 + 0xFFFFFFFF + 1 - 346}"
    )
    assert out[3:5] == ["skipped: 165 bytes from offset 16", "record 1: offset 181, 165 bytes, to 346"]


def test_truncated_file() -> None:
    assert lines(MDBOX_M1[:-1])[-3:] == [
        "damage: offset 181: record is truncated, bytes missing: at least 1",
        "skipped: 164 bytes from offset 181",
        "end: 1 records, 1 damaged places",
    ]


def test_damaged_file_header() -> None:
    out = lines(b"\0" + SDBOX_U1[1:])
    assert out[1].startswith("damage: offset 0: not a dbox file")
    assert "record 1: offset 16, 158 bytes, to 174" in out
    assert lines(b"") == [
        "dbox file, 0 bytes",
        "damage: offset 0: file header line has no end",
        "end: 0 records, 0 damaged places",
    ]
    assert lines(b"2 M1e")[1] == "damage: offset 5: file header line has no end"
    assert lines(b"2 M1e\n")[1].endswith("message header size 30, no creation time")


def test_file_of_format_3() -> None:
    expected = [
        "dbox file, 405 bytes",
        "file header: offset 0, 50 bytes: version 3, message header size 19, "
        "created 2026-11-20T20:11:49Z (1795205509)",
        "record 1: offset 50, 210 bytes, to 260",
        "  header: offset 50, 19 bytes: separator 7369787465656e206279746573212121",
        "  body: offset 69, 19 bytes, plain, begins 53 75 62 6a 65 63 74 3a",
        "  trailer: offset 88, 172 bytes: file key 101112131415161718191a1b1c1d1e1f",
        "    R 6b00a985  (received 2026-11-20T20:11:49Z (1795205509))",
        "    V 16  (virtual size 22 bytes, with CRLF)",
        "    G 00112233445566778899aabbccddeeff  (guid, in indexes 00112233445566778899aabbccddeeff)",
        "record 2: offset 260, 145 bytes, to 405",
        "  header: offset 260, 19 bytes: separator f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        "  body: offset 279, 2 bytes, plain, begins 1f 8b",
        "  trailer: offset 281, 124 bytes: file key 101112131415161718191a1b1c1d1e1f",
        "end: 2 records, 0 damaged places",
    ]
    assert lines(page_example()) == expected


def test_damage_in_a_file_of_format_3_is_named_and_gone_over() -> None:
    data = bytearray(page_example())
    data[4] ^= 1
    out = lines(data)
    assert out[1] == "damage: offset 0: damaged file header line of version 3: " + repr(bytes(data[:49]))
    assert "record 2: offset 260, 145 bytes, to 405" in out
    data = bytearray(page_example())
    data[70] ^= 1
    assert any(line.startswith("damage: offset 69: CRC-32 of the body is ") for line in lines(data))
    data = bytearray(page_example())
    data[52] ^= 1
    assert any(line.startswith("damage: offset 50: the message header does not fit") for line in lines(data))
    out = lines(page_example()[:-1])
    assert "damage: offset 260: a record that was not finished" in out
    assert out[-1] == "end: 1 records, 1 damaged places"


def test_a_date_outside_of_the_calendar_is_a_number() -> None:
    for value, shown in (
        (b"fffffff000000000", "-68719476736"),
        (b"fffffff1886eb1c0", "0001-01-01T12:00:00Z (-62135553600)"),
        (b"3afff44180", "253402300800"),
        (b"7fffffffffffffff", "9223372036854775807"),
        (b"8000000000000000", "-9223372036854775808"),
    ):
        data = encode_file_header(0) + message(b"", (b"R", value))
        assert f"    R {value.decode()}  (received {shown})" in lines(data)
