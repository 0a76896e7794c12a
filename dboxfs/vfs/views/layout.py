"""The tree of a view: which directory is which mailbox, and its name.

* ``verbatim``: children nested beside ``cur/``, ``new/`` and ``tmp/``.  The root is no Maildir.
* ``++``: the root is INBOX, every other mailbox a directory ``.Sub.Folder`` beside its ``cur/``.  Parents
  that are no mailbox are not shown.

A part of a name is that of the default view (:mod:`dboxfs.store.mailbox_names`), with more bytes escaped in
the same way: ``%XX`` is one byte of the mailbox's name, so the escaped name stands for the same mailbox.
Escaped are the first byte of a name that the view needs for itself (``cur``; in the MH view a number), and in
``++`` every dot.  With ``names=mutf7`` parts are in modified UTF-7.

Pure: nothing here awaits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from dboxfs.store import Folder, Store
from dboxfs.store.mailbox_names import decode_mutf7, encode_mutf7, shown_part, storage_part
from dboxfs.store.names.of_mailbox import decode, encode
from dboxfs.vfs.options import Charset, Nesting
from dboxfs.vfs.views.places import DIRECTORIES, KEYWORDS_NAME

INBOX = "INBOX"

_RESERVED = frozenset({*(name.decode("ascii") for name in DIRECTORIES), KEYWORDS_NAME.decode("ascii")})
_DOT, _ESCAPED_DOT = ".", "%2E"


class NewName(Struct, frozen=True):
    """A name in a directory of the view, as the default view has it."""

    parent: Folder
    name: bytes


def is_reserved(shown: str) -> bool:
    """Whether the Maildir view needs a name for itself."""
    return shown in _RESERVED


class Layout:
    """The tree of one mount.

    :param reserved: says which names the view needs for itself.
    """

    def __init__(
        self,
        store: Store,
        nesting: Nesting,
        charset: Charset,
        reserved: Callable[[str], bool] = is_reserved,
    ) -> None:
        self._store = store
        self._reserved = reserved
        self._flat = nesting is Nesting.PLUS_PLUS
        self._mutf7 = charset is Charset.MUTF7

    # -- directories and their mailboxes -------------------------------------------------------

    @property
    def is_flat(self) -> bool:
        """Whether the directories of all mailboxes are in the root."""
        return self._flat

    def maildir(self, folder: Folder) -> Folder | None:
        """The mailbox whose ``cur/``, ``new/`` and ``tmp/`` are in the directory of *folder*; None: none."""
        if self._flat and folder.parent is None:
            folder = self._store.folders.get(INBOX, folder)
        return folder if folder.mailbox is not None else None

    def children(self, folder: Folder) -> Iterator[tuple[bytes, Folder]]:
        """The directories of mailboxes in that of *folder*, in the order of their names."""
        if not self._flat:
            found = ((self._part(shown), child) for shown, child in folder.children.items())
        elif folder.parent is None:
            found = (
                (self._dotted(some), some) for some in self._store.folders.values() if self._has_own(some)
            )
        else:
            return iter(())
        return iter(sorted(found, key=lambda pair: pair[0]))

    def child(self, folder: Folder, name: bytes) -> Folder | None:
        """The mailbox whose directory has this name in that of *folder*."""
        if not self._flat:
            plain = folder.children.get(decode(name))
            if plain is not None and self._part(plain.shown) == name:
                return plain
        return next((child for shown, child in self.children(folder) if shown == name), None)

    def where(self, folder: Folder, shown: bytes) -> NewName:
        """The directory and the name that the default view's name *shown* in *folder* has here."""
        if not self._flat:
            return NewName(folder, self._part(decode(shown)))
        parts = [*self._parts(folder), self._escaped(decode(shown))]
        return NewName(self._store.root, self._joined(parts))

    def _has_own(self, folder: Folder) -> bool:
        return folder.mailbox is not None and folder.name != INBOX

    # -- names to be made ----------------------------------------------------------------------

    def target(self, folder: Folder, name: bytes) -> NewName | None:
        """The default view's directory and name of a mailbox that is made as, or renamed to, *name* in the
        directory of *folder*.

        :return: None: no mailbox can have this name here.
        """
        if not self._flat:
            shown = self._shown(decode(name))
            return NewName(folder, encode(shown)) if shown is not None and self._part(shown) == name else None
        if folder.parent is not None or not name.startswith(b".") or b".." in name:
            return None
        parts = [part for part in map(self._shown, decode(name)[1:].split(_DOT)) if part is not None]
        parent: Folder | None = self._store.root
        for part in parts[:-1]:
            parent = parent.children.get(part) if parent is not None else None
        if parent is None or not parts or self._joined([self._escaped(part) for part in parts]) != name:
            return None
        return NewName(parent, encode(parts[-1]))

    def _shown(self, part: str) -> str | None:
        """A part of a name here -> that of the default view."""
        utf8 = self._store.location.utf8
        try:
            plain = decode_mutf7(encode(part)) if self._mutf7 else part
            return shown_part(storage_part(plain, utf8=utf8), utf8=utf8) if plain else None
        except ValueError:
            return None

    # -- names to be shown ---------------------------------------------------------------------

    def _part(self, shown: str) -> bytes:
        return self._encoded(self._escaped(shown))

    def _escaped(self, shown: str) -> str:
        if self._flat:
            return shown.replace(_DOT, _ESCAPED_DOT)
        return f"%{ord(shown[0]):02X}{shown[1:]}" if self._reserved(shown) else shown

    def _encoded(self, text: str) -> bytes:
        if not self._mutf7:
            return encode(text)
        try:
            return encode_mutf7(text)
        except ValueError:
            return encode(text)

    def _parts(self, folder: Folder) -> list[str]:
        above = self._parts(folder.parent) if folder.parent is not None else []
        return [*above, self._escaped(folder.shown)] if folder.parent is not None else above

    def _dotted(self, folder: Folder) -> bytes:
        return self._joined(self._parts(folder))

    def _joined(self, parts: list[str]) -> bytes:
        if len(parts) == 1 and parts[0] == "dboxfs":  # the control directory is called so
            parts = ["%64boxfs"]
        return b"".join(b"." + self._encoded(part) for part in parts)
