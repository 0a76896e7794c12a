"""The location of a store: all its paths (mailbox-layout section 2).

:mod:`.mail_location` (2.3) and :mod:`.location_settings` (2.4) parse the user's input; :mod:`.location_check`
checks it against the files on disk.

With ``LAYOUT=index`` the directory of a mailbox has its guid as name, and only the list index has the
mailbox's name (:mod:`.list_index`); ``DIRNAME`` and ``INBOX`` have no effect.
"""

from __future__ import annotations

import enum
import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dboxfs.store.mailbox_directories import MailboxDirectories
from dboxfs.store.mailbox_names import NameCoding

if TYPE_CHECKING:
    from dboxfs.dbox.crypt import KeyRing
    from dboxfs.dbox.encoders import Seals
    from dboxfs.store.write_options import SealsByFolder

UNFINISHED = ".dboxfs-convert"
"""A file in the root of a store that ``dboxfs convert`` is still making."""

WRITTEN_NAMES = "dboxfs-names"
"""The directory in the control directory with one file a mailbox: the names that programs gave messages."""


class Kind(enum.Enum):
    """The two dbox formats: one message in a file, or many."""

    SDBOX = "sdbox"
    MDBOX = "mdbox"


class TreeLayout(enum.Enum):
    """The names of mailbox directories: by the names of the mailboxes, or by their guids."""

    FS = "fs"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class Location:
    """All paths of a store.  Directories are absolute, without a trailing slash."""

    kind: Kind
    root: str
    index: str | None = None
    index_cache: str | None = None
    control: str | None = None
    alt: str | None = None
    inbox: str | None = None
    mailbox_dir: str = "mailboxes"
    dirname: str = "dbox-Mails"
    full_dirname: bool = False
    utf8: bool = False
    subscriptions: str = "subscriptions"
    attachments: str | None = None
    volatile: str | None = None
    keys: KeyRing | None = field(default=None, compare=False, repr=False)
    """Private keys of encrypted messages; None: such messages can't be read."""
    encrypt: Seals | SealsByFolder | None = field(default=None, compare=False, repr=False)
    """The encryption of this user's new messages, where users have keys of their own; None: none."""
    layout: TreeLayout = TreeLayout.FS
    list_index_name: str = "dovecot.list.index"
    escape: str = ""
    """The character that begins an escape in a stored name; empty: no escapes."""
    directories: MailboxDirectories = field(default_factory=MailboxDirectories, compare=False, repr=False)
    """LAYOUT=index: the directory of each mailbox, as the list index was read last."""
    only: frozenset[str] | None = None
    """The mailboxes that are shown, by storage name; None: all."""
    subscribed_in: str | None = None
    """The file of subscriptions, if another namespace keeps them; None: in the control directory."""
    subscribed_as: str = ""
    """The prefix of mailbox names in that file: a namespace's prefix, with its own separators."""
    loose: bool = False
    """The root itself is the directory of the message files, and no other parts of a store exist."""

    @property
    def tree(self) -> str:
        """The directory whose subdirectories are the mailboxes."""
        return _join(self.root, self.mailbox_dir)

    @property
    def names(self) -> NameCoding:
        """The coding of mailbox names in the store."""
        return NameCoding(self.utf8, self.escape, self.dirname)

    def same_names(self, kind: Kind, root: str) -> Location:
        """A store of the layout ``fs`` at *root*, with the same coding of mailbox names."""
        escaped = self.layout is TreeLayout.FS or any(self.escape in name for name in self.directories.all)
        return Location(kind, root, utf8=self.utf8, escape=self.escape if escaped else "")

    def display_name(self, name: str, separator: str = "/") -> str:
        """The name of a mailbox for messages to users."""
        return self.names.display(name, separator)

    def mailbox_path(self, name: str) -> str:
        """The directory of mailbox *name*, which exists as long as the mailbox (sdbox: with its messages)."""
        if self.layout is TreeLayout.INDEX:
            return _join(self.tree, self.directories.of(name))
        if name == "INBOX" and self.inbox is not None:
            return self.inbox
        return _join(self.tree, name, self.dirname)

    def folder_path(self, name: str) -> str:
        """The directory of *name* in the mailbox tree, for a mailbox or only a parent."""
        return self.mailbox_path(name) if self.layout is TreeLayout.INDEX else _join(self.tree, name)

    def index_path(self, name: str) -> str:
        """The directory of the index files of mailbox *name* (mailbox-layout section 2)."""
        if self.index is None:
            return self.mailbox_path(name)
        return self._below(self.index, name, dirname=self.full_dirname)

    def cache_path(self, name: str) -> str:
        """The file ``dovecot.index.cache`` of mailbox *name*."""
        if self.index_cache is None:
            return _join(self.index_path(name), "dovecot.index.cache")
        base = self._below(self.index_cache, name, dirname=self.full_dirname)
        return _join(base, "dovecot.index.cache")

    def alt_mailbox_path(self, name: str) -> str | None:
        """The directory of mailbox *name* in the alternative storage, if there is one."""
        return None if self.alt is None else self._below(self.alt, name, dirname=True)

    def _below(self, root: str, name: str, *, dirname: bool) -> str:
        if self.layout is TreeLayout.INDEX:
            return _join(root, self.mailbox_dir, self.directories.of(name))
        return _join(root, self.mailbox_dir, name, self.dirname if dirname else "")

    @property
    def list_index_dir(self) -> str:
        """The directory of the list index."""
        return self.index or self.root

    @property
    def list_index_path(self) -> str:
        """The snapshot of the list index."""
        return _join(self.list_index_dir, self.list_index_name)

    @property
    def storage(self) -> str:
        """mdbox: the directory of the ``m.N`` files."""
        return self.root if self.loose else _join(self.root, "storage")

    @property
    def alt_storage(self) -> str | None:
        """mdbox: the directory of ``m.N`` files in the alternative storage."""
        return None if self.alt is None else _join(self.alt, "storage")

    @property
    def map_dir(self) -> str:
        """mdbox: the directory of ``dovecot.map.index*``."""
        return self.storage if self.loose else _join(self.index or self.root, "storage")

    @property
    def tree_lock(self) -> str:
        """The lock file for making, deleting and renaming mailboxes.

        With VOLATILEDIR several namespaces may have their lock files in one directory: Dovecot adds the SHA-1
        of the namespace's prefix.  A location does not have the prefix; it is taken to be empty, as in most
        installations.
        """
        if self.volatile is None:
            return _join(self.index or self.root, "mailboxes.lock")
        return _join(self.volatile, "mailboxes.lock" + hashlib.sha1(b"", usedforsecurity=False).hexdigest())

    @property
    def subscriptions_path(self) -> str:
        """The file of subscriptions."""
        return self.subscribed_in or _join(self.control_dir, self.subscriptions)

    @property
    def control_dir(self) -> str:
        """The directory of ``subscriptions`` and ``dovecot-uidvalidity*``."""
        return self.control or self.root


def _join(*parts: str) -> str:
    return os.path.join(*[p for p in parts if p])
