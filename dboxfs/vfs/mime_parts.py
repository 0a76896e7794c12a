"""The parts of a message as files: names, types, decoded bytes.

Only leaves are files: a ``multipart`` has none, and a message in a message is one file, unchanged.  The names
are those that the message gives its parts, without dangerous characters; a part without a name is
``part-<n>`` with an ending for its type.  A name that comes again gets a number.

Bytes in, values out: this module reads no files.  Python's email package parses and decodes; a part that it
can't decode is shown unchanged.
"""

from __future__ import annotations

import mimetypes
import os
import re
from email import message_from_bytes
from email.errors import MessageError
from email.message import Message

from msgspec import Struct

PARTS_MOST = 1000
"""Parts of a message that are shown, at most."""

LONGEST_PART_NAME = 200
"""Bytes of a file name, at most."""

_BAD = re.compile(r"[\x00-\x1f\x7f/\\]+")
_ENDINGS = {"text/plain": ".txt", "text/html": ".html", "message/rfc822": ".eml", "image/jpeg": ".jpg"}


class MimePart(Struct, frozen=True):
    """One file.  ``kind``: its content type, in lower case."""

    name: bytes
    kind: str
    content: bytes


def parts_of(data: bytes) -> list[MimePart]:
    """The parts of a message.

    :param data: the whole message.
    """
    found: list[MimePart] = []
    taken: set[bytes] = set()
    todo: list[Message] = [message_from_bytes(data)]
    while todo and len(found) < PARTS_MOST:
        part = todo.pop()
        payload = part.get_payload()
        kind = part.get_content_type()
        if isinstance(payload, list) and not kind.startswith("message/"):
            todo += [child for child in reversed(payload) if isinstance(child, Message)]
            continue
        name = _free(_name(part, kind, len(found) + 1), taken)
        taken.add(name)
        found.append(MimePart(name, kind, _content(part)))
    return found


def _content(part: Message) -> bytes:
    payload = part.get_payload()
    if isinstance(payload, list):
        return b"".join(child.as_bytes() for child in payload if isinstance(child, Message))
    try:
        decoded = part.get_payload(decode=True)
    except (MessageError, ValueError, LookupError):
        decoded = None
    if isinstance(decoded, bytes):
        return decoded
    return payload.encode("utf-8", "surrogateescape") if isinstance(payload, str) else b""


def _name(part: Message, kind: str, number: int) -> str:
    try:
        given = part.get_filename() or ""
    except (MessageError, ValueError, LookupError, TypeError):
        given = ""
    plain = _BAD.sub("_", re.split(r"[/\\]", given)[-1]).strip(" ")
    plain = re.sub(r"^\.+", "_", plain)
    if plain.strip("_. "):
        return plain
    ending = _ENDINGS.get(kind) or mimetypes.guess_extension(kind, strict=False) or ""
    return f"part-{number}{ending}"


def _free(name: str, taken: set[bytes]) -> bytes:
    stem, ending = os.path.splitext(name)
    tail = ending.encode("utf-8", "replace")[:32]
    for number in range(1, PARTS_MOST + 2):
        behind = (b"" if number == 1 else b"-%d" % number) + tail
        head = stem.encode("utf-8", "replace")[: LONGEST_PART_NAME - len(behind)]
        found = head.decode("utf-8", "ignore").encode() + behind
        if found not in taken:
            return found
    raise AssertionError("unreachable: there are fewer parts than numbers")
