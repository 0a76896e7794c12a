"""Attributes that desktop programs know: answered by name and never listed.

==========================================  ==============================================================
``user.mime_type``                          ``message/rfc822``
``user.xdg.tags``                           the keywords, separated by commas; can be set
``user.mail.subject|from|to|date``,         header fields, decoded as people read them
``user.mail.message-id``
==========================================  ==============================================================

They are not listed, so that no backup has them: it would set the tags after the keywords, and fields that are
in the message anyhow.  Only reading a field reads the message; a listing doesn't.

A keyword with a comma in it is no tag, and stays when tags are set.

Concurrency: :meth:`DesktopAttributes.value` awaits; the fields that it keeps never change for a uid.
"""

from __future__ import annotations

import errno
from collections import OrderedDict

from dboxfs.store import Mailbox
from dboxfs.store.headers import Fields, fields_of
from dboxfs.vfs.errors import Refused
from dboxfs.vfs.xattrs import encoded

TAGS = b"user.xdg.tags"
MIME_TYPE = b"user.mime_type"

_MAIL = b"user.mail."
_FIELDS = ("subject", "from", "to", "date", "message-id")
_INFORMING = {MIME_TYPE, *(_MAIL + field.encode() for field in _FIELDS)}

REMEMBERED_HEADERS = 64
"""Messages whose fields are kept, at most, for a program that asks for one after the other."""


def is_desktop(name: bytes) -> bool:
    """Whether an attribute is one of these."""
    return name == TAGS or name in _INFORMING


def tags_of(keywords: tuple[str, ...] | list[str]) -> str:
    """The tags for *keywords*."""
    return ",".join(word for word in keywords if "," not in word)


def keywords_of(tags: bytes, before: tuple[str, ...]) -> bytes:
    """The value of ``user.dbox.keywords`` that sets these tags.

    :param before: the keywords that the message has.
    :raises Refused: EINVAL: a tag with a space in it can't be a keyword.
    """
    words = [word.strip() for word in tags.split(b",")]
    if any(byte in word for word in words for byte in (b" ", b"\t", b"\n")):
        raise Refused(errno.EINVAL)
    kept = [word.encode("utf-8", "surrogateescape") for word in before if "," in word]
    return b" ".join([word for word in words if word] + kept)


class DesktopAttributes:
    """Reads the attributes, and keeps header fields."""

    def __init__(self) -> None:
        self._fields: OrderedDict[tuple[bytes | None, int, int], Fields] = OrderedDict()

    async def value(self, box: Mailbox, uid: int, name: bytes) -> bytes:
        """The value of the attribute *name*.

        :raises Refused: ENODATA: the message has no such field, or no tag.
        :raises DboxfsError, OSError: it is gone, or can't be read.
        """
        box.known(uid)
        if name == MIME_TYPE:
            return b"message/rfc822"
        if name == TAGS:
            text: str | None = tags_of(box.keywords(uid)) or None
        else:
            text = (await self._of(box, uid)).get(name.removeprefix(_MAIL).decode("ascii"))
        if text is None:
            raise Refused(errno.ENODATA)
        return encoded(text)

    async def _of(self, box: Mailbox, uid: int) -> Fields:
        key = box.guid, box.uid_validity, uid
        fields = self._fields.get(key)
        if fields is None:
            fields = self._fields[key] = await fields_of(box, uid, _FIELDS)
            if len(self._fields) > REMEMBERED_HEADERS:
                self._fields.popitem(last=False)
        return fields
