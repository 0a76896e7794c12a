r"""The files of a Maildir, as Dovecot keeps them (checked against 2.3.19).

::

    cur/<base>:2,<letters>    a message; base is the unique part, with ,S=<bytes>,W=<virtual size> where known
    new/<base>                a message that no mail program has seen yet
    dovecot-uidlist           3 V<uidvalidity> N<next uid> G<mailbox guid, 32 hex digits>
                              <uid> [G<guid>] [W<virtual size>] [P<POP3 uidl>] [O<order>] ... :<base>
    dovecot-keywords          <number, 0 = a, 25 = z> <keyword>

Letters: ``D`` draft, ``F`` flagged, ``R`` answered, ``S`` seen, ``T`` deleted, ``a`` to ``z`` keywords.  The
guid of a message without a ``G`` field is its base.  ``N`` may be lower than the uids of the records, since
Dovecot only appends lines.  A keyword beyond the 26th can't be in a name: Dovecot has it in its index only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field

from dboxfs.errors import FormatError

LETTERS = "DFRST"
_FLAGS = {"D": 0x10, "F": 0x02, "R": 0x01, "S": 0x08, "T": 0x04}
_KEYWORD = re.compile(rb"([0-9]+) (.+)")
_SIZE = re.compile(rb",S=([0-9]+)(?=[,:]|$)")
_HIGHEST = 0xFFFFFFFF

MOST_KEYWORDS = 26


class Listed(Struct, frozen=True):
    """A record of the uidlist.  ``guid``: None: it is the base.  ``uidl``, ``order``: POP3's."""

    uid: int
    guid: bytes | None = None
    virtual_size: int | None = None
    uidl: bytes | None = None
    order: int | None = None


class UidList(Struct):
    """``dovecot-uidlist``.  ``messages``: by base.  ``doubtful``: lines that can't be read."""

    uid_validity: int = 0
    next_uid: int = 1
    guid: bytes | None = None
    messages: dict[bytes, Listed] = field(default_factory=dict)
    doubtful: list[str] = field(default_factory=list)


def base_of(name: bytes) -> bytes:
    """The unique part of a message's file name."""
    return name.partition(b":")[0]


def size_of(name: bytes) -> int | None:
    """The size of the message in bytes, from its name; None: the name has none."""
    found = _SIZE.search(name)
    return int(found[1]) if found else None


def flags_of(name: bytes, keywords: Mapping[int, str]) -> tuple[int, tuple[str, ...]]:
    """Flags (bits as in an index) and keywords from a file name.

    :param keywords: by number.
    """
    _, _, letters = name.partition(b":2,")
    flags, words = 0, []
    for letter in dict.fromkeys(letters.partition(b",")[0].decode("latin-1")):
        flags |= _FLAGS.get(letter, 0)
        number = ord(letter) - ord("a")
        if 0 <= number < MOST_KEYWORDS and number in keywords:
            words.append(keywords[number])
    return flags, tuple(words)


def file_name(base: bytes, flags: int, numbers: Iterable[int]) -> bytes:
    """The name in ``cur/`` of a message with these flags and numbers of keywords."""
    letters = [letter for letter in LETTERS if flags & _FLAGS[letter]]
    letters += [chr(ord("a") + number) for number in sorted(numbers)]
    return base + b":2," + "".join(letters).encode("ascii")


def parse_keywords(data: bytes) -> dict[int, str]:
    """``dovecot-keywords``: keywords by number.  Lines that can't be read are left out."""
    found = {}
    for line in data.split(b"\n"):
        match = _KEYWORD.fullmatch(line)
        if match is not None:
            found[int(match[1])] = match[2].decode("utf-8", "surrogateescape")
    return found


def encode_keywords(words: Sequence[str]) -> bytes:
    """``dovecot-keywords`` with the first 26 of *words*, numbered from 0 on."""
    lines = (f"{number} {word}\n" for number, word in enumerate(words[:MOST_KEYWORDS]))
    return "".join(lines).encode("utf-8", "surrogateescape")


def parse_uidlist(data: bytes) -> UidList:
    """``dovecot-uidlist``, version 3 or 1; an unfinished last line is ignored.

    :raises FormatError: *data* is no such file.
    """
    lines = data.split(b"\n")[:-1]
    if not lines:
        raise FormatError(0, "the uidlist has no header")
    found = UidList()
    version, *words = lines[0].split(b" ")
    if version == b"3":
        _take_header(found, words)
    elif version == b"1" and len(words) == 2:
        found.uid_validity, found.next_uid = _number(words[0]), _number(words[1])
    else:
        raise FormatError(0, f"no header of a uidlist: {lines[0][:64]!r}")
    uids = set()
    for number, line in enumerate(lines[1:], 2):
        name, listed = _record(line, version)
        if listed is None or not 0 < listed.uid < _HIGHEST:
            found.doubtful.append(f"line {number} of the uidlist can't be read")
        elif listed.uid in uids:
            found.doubtful.append(f"line {number} of the uidlist: uid {listed.uid} is there twice")
        else:
            uids.add(listed.uid)
            found.messages[name] = listed
            found.next_uid = max(found.next_uid, listed.uid + 1)
    return found


def _take_header(found: UidList, words: Sequence[bytes]) -> None:
    for word in words:
        key, value = word[:1], word[1:]
        if key == b"V":
            found.uid_validity = _number(value)
        elif key == b"N":
            found.next_uid = max(_number(value), 1)
        elif key == b"G" and re.fullmatch(rb"[0-9a-fA-F]{32}", value):
            found.guid = bytes.fromhex(value.decode("ascii"))


def _number(text: bytes) -> int:
    if not text.isdigit() or int(text) > _HIGHEST:
        raise FormatError(0, f"no number in the header of a uidlist: {text[:32]!r}")
    return int(text)


def _record(line: bytes, version: bytes) -> tuple[bytes, Listed | None]:
    """A record's base and contents; contents None: it can't be read."""
    if version == b"1":
        uid, _, name = line.partition(b" ")
        return base_of(name), Listed(int(uid)) if uid.isdigit() and name else None
    head, colon, name = line.partition(b" :")
    uid, *fields = head.split(b" ")
    if not uid.isdigit() or not colon or not name:
        return name, None
    values = {field[:1]: field[1:] for field in fields if field}
    size, order = values.get(b"W", b""), values.get(b"O", b"")
    listed = Listed(
        int(uid),
        values.get(b"G"),
        int(size) if size.isdigit() else None,
        values.get(b"P"),
        int(order) if order.isdigit() else None,
    )
    return name, listed


def encode_uidlist_header(uid_validity: int, next_uid: int, guid: bytes) -> bytes:
    """The first line of ``dovecot-uidlist``.  *guid*: the mailbox's, 16 bytes."""
    return f"3 V{uid_validity} N{next_uid} G{guid.hex()}\n".encode("ascii")


def encode_listed(listed: Listed, base: bytes) -> bytes:
    """A record of ``dovecot-uidlist``."""
    fields = [b"%d" % listed.uid]
    for key, value in ((b"G", listed.guid), (b"P", listed.uidl)):
        if value is not None:
            fields.append(key + value)
    for key, number in ((b"W", listed.virtual_size), (b"O", listed.order)):
        if number is not None:
            fields.append(key + b"%d" % number)
    return b" ".join(fields) + b" :" + base + b"\n"
