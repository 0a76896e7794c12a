"""Mailbox names: their form on disk, and the form that the user sees.

A *storage name* is the path of a mailbox below the mailboxes directory, parts joined with ``/``; each part
is modified UTF-7 (RFC 3501 section 5.1.3), or UTF-8 if the location says so (mailbox-layout section 3).  It
is kept as ``str`` with surrogate escapes, as ``os.fsdecode`` gives it.

A *shown part* is the UTF-8 name of one directory of the mount.  It is the decoded part, unless that can't be
shown or would be ambiguous; then single bytes are percent-escaped:

* ``.`` and ``..``, ``.dboxfs``, and names that a message could have (``5.eml``): their first dot becomes
  ``%2E``;
* bytes that are no valid UTF-8; in a part that is no modified UTF-7 the ``&``, control and 8-bit bytes:
  ``%E9``, ``%26``, ``%0A``;
* a part with a character in modified UTF-7 that should be plain (``&AC8-`` for ``/``) or is not allowed (NUL)
  is shown as it is stored, with ``&`` escaped: ``%26AC8-``;
* a ``%`` before two hex digits: ``%25``, so that a ``%XX`` is always an escape.

``%XX`` therefore always stands for one raw byte of the storage name, and :func:`storage_part` is the exact
inverse of :func:`shown_part` for every possible part: no two parts are ever shown equal.

A store may have an *escape character* (``mailbox_list_storage_escape_char``, plugin ``listescape`` of 2.3,
``^`` in every store with LAYOUT=index).  It and two hex digits stand for one byte that a stored name can't
have: the escape character itself, ``/``, and at the beginning of a part ``~``, the first dot of ``.`` and
``..``, the first byte of the name of mailbox directories.  Such a part is shown without these escapes (a
``/`` in it as ``%2F``).  A part that Dovecot would not have written (``\\41`` for ``A``) is shown as it is
stored, behind ``%00``, which no other name begins with.
"""

from __future__ import annotations

import binascii
import os
import re

from msgspec import Struct

INDEX_ESCAPE = "^"
"""The default escape character of a store with LAYOUT=index."""

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_MESSAGE_NAME = re.compile(r"[0-9]+\.eml")
_RESERVED = frozenset({".", "..", ".dboxfs"})
_LITERALLY = "%00"
_SLASH = ord("/")
_SHIFTED = re.compile(rb"&([^-]*)-")
_NOT_MUTF7 = re.compile("[\x00-\x1f&\x7f-\xff]")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")


def decode_mutf7(part: bytes) -> str:
    """Decode one modified UTF-7 part.

    :raises ValueError: not modified UTF-7, or not its canonical form (so that encoding the result gives
        *part* back).
    """
    out: list[str] = []
    pos = 0
    while pos < len(part):
        start = part.find(b"&", pos)
        if start < 0:
            out.append(part[pos:].decode("ascii"))
            break
        out.append(part[pos:start].decode("ascii"))
        match = _SHIFTED.match(part, start)
        if match is None:
            raise ValueError("unterminated & sequence")
        out.append(_decode_shifted(match[1]))
        pos = match.end()
    name = "".join(out)
    if encode_mutf7(name) != part:
        raise ValueError("not canonical modified UTF-7")
    return name


def _decode_shifted(text: bytes) -> str:
    if not text:
        return "&"
    try:
        raw = binascii.a2b_base64(text.replace(b",", b"/") + b"=" * (-len(text) % 4))
        return raw.decode("utf-16-be")
    except (binascii.Error, UnicodeDecodeError) as exc:
        raise ValueError(f"bad & sequence: {exc}") from exc


def encode_mutf7(name: str) -> bytes:
    """Encode *name* as modified UTF-7.

    :raises ValueError: *name* holds lone surrogates.
    """
    out: list[bytes] = []
    for run in re.findall(r"[\x20-\x7e]+|[^\x20-\x7e]+", name):
        if " " <= run[0] <= "~":
            out.append(run.replace("&", "&-").encode("ascii"))
        else:
            packed = binascii.b2a_base64(run.encode("utf-16-be"), newline=False)
            out.append(b"&" + packed.rstrip(b"=").replace(b"/", b",") + b"-")
    return b"".join(out)


class NameCoding(Struct, frozen=True):
    """The coding of the parts of mailbox names in a store.

    :ivar utf8: True: UTF-8; else modified UTF-7.
    :ivar escape: the escape character; empty: there is none.
    :ivar dirname: the name of mailbox directories, which no part can have.
    """

    utf8: bool = False
    escape: str = ""
    dirname: str = "dbox-Mails"

    def escaped(self, raw: bytes) -> bytes:
        """The stored form of a part that has no escapes."""
        if not self.escape:
            return raw
        special, escape, out = self._is_special(raw), os.fsencode(self.escape), bytearray()
        for at, byte in enumerate(raw):
            if byte in (*escape, _SLASH) or (at == 0 and special):
                out += escape + b"%02x" % byte
            else:
                out.append(byte)
        return bytes(out)

    def _is_special(self, raw: bytes) -> bool:
        """Whether the first byte of this part has to be escaped."""
        return raw.startswith(b"~") or raw in (b".", b"..", os.fsencode(self.dirname))

    def plain(self, raw: bytes) -> bytes | None:
        """The inverse of :meth:`escaped`; None: Dovecot would not have stored a part like that."""
        if not self.escape:
            return raw
        escape = re.escape(os.fsencode(self.escape))
        said = re.sub(escape + rb"([0-9a-f]{2})", lambda match: bytes([int(match[1], 16)]), raw)
        return said if self.escaped(said) == raw else None

    def shown_part(self, part: str) -> str:
        """The directory name that the mount shows for the storage part *part*."""
        raw = os.fsencode(part)
        plain = self.plain(raw)
        if plain is None:
            return self._literally(raw)
        name = _decode(plain, utf8=self.utf8)
        if name is not None:
            return _escape_shown(name)
        return _escape_raw(plain, utf8=self.utf8).replace("/", "%2F")

    def _literally(self, raw: bytes) -> str:
        return _LITERALLY + _escape_raw(raw, utf8=self.utf8)

    def storage_part(self, shown: str) -> str:
        """The storage part that *shown* stands for: the inverse of :meth:`shown_part`.

        :raises ValueError: *shown* can't be a part of a name (lone surrogates outside an escape).
        """
        literally = bool(self.escape) and shown.startswith(_LITERALLY)
        raw = self._raw(shown.removeprefix(_LITERALLY) if literally else shown)
        return os.fsdecode(raw if literally else self.escaped(raw))

    def stored(self, part: str) -> str:
        """The storage part of a name from an IMAP client (a ``%XX`` in it is no escape).

        :raises ValueError: it has lone surrogates.
        """
        return os.fsdecode(self.escaped(_encode(part, utf8=self.utf8)))

    def _raw(self, shown: str) -> bytes:
        out, pos = bytearray(), 0
        for match in _ESCAPE.finditer(shown):
            out += _encode(shown[pos : match.start()], utf8=self.utf8)
            out.append(int(match[1], 16))
            pos = match.end()
        return bytes(out + _encode(shown[pos:], utf8=self.utf8))

    def display(self, storage_name: str, separator: str = "/") -> str:
        """The full name for messages to users: decoded parts, joined; undecodable ones as in the mount."""
        return separator.join(self._display_part(os.fsencode(part)) for part in storage_name.split("/"))

    def _display_part(self, raw: bytes) -> str:
        plain = self.plain(raw)
        name = None if plain is None else _decode(plain, utf8=self.utf8)
        if name is not None:
            return name
        return self._literally(raw) if plain is None else _escape_raw(plain, utf8=self.utf8)


def shown_part(part: str, *, utf8: bool) -> str:
    """:meth:`NameCoding.shown_part` in a store without an escape character."""
    return NameCoding(utf8).shown_part(part)


def _decode(raw: bytes, *, utf8: bool) -> str | None:
    """The decoded text of *raw*; None if it can't be shown."""
    try:
        name = raw.decode("utf-8") if utf8 else decode_mutf7(raw)
    except ValueError:
        return None
    return None if "\0" in name else name


def _escape_shown(name: str) -> str:
    name = _ESCAPE.sub(lambda m: "%25" + m[1], name).replace("/", "%2F")
    if name in _RESERVED or _MESSAGE_NAME.fullmatch(name):
        name = name.replace(".", "%2E", 1)
    return name


def _escape_raw(raw: bytes, *, utf8: bool) -> str:
    """The shown form of a part that can't be decoded: stray bytes escaped, the rest unchanged."""
    name = raw.decode("utf-8", "surrogateescape") if utf8 else raw.decode("latin-1")
    name = _ESCAPE.sub(lambda m: "%25" + m[1], name)
    stray = _NOT_UTF8 if utf8 else _NOT_MUTF7
    return stray.sub(lambda m: f"%{ord(m[0]) & 0xFF:02X}", name)


def storage_part(shown: str, *, utf8: bool) -> str:
    """:meth:`NameCoding.storage_part` in a store without an escape character."""
    return NameCoding(utf8).storage_part(shown)


def _encode(text: str, *, utf8: bool) -> bytes:
    return text.encode("utf-8") if utf8 else encode_mutf7(text)


def display_name(storage_name: str, *, utf8: bool, separator: str = "/") -> str:
    """:meth:`NameCoding.display` in a store without an escape character."""
    return NameCoding(utf8).display(storage_name, separator)
