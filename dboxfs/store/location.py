"""Where a store is: a Dovecot ``mail_location`` string or a plain directory (mailbox-layout section 1).

``driver:root[:KEY=value|:FLAG]...`` with the drivers ``sdbox`` (alias ``dbox``) and ``mdbox``; ``::`` is a
literal colon.  ``%``-variables are expanded where the user is known, and refused elsewhere
(:mod:`.user_variables`).  The settings of Dovecot 2.4 (``mail_driver``, ``mail_path`` …) are in
:mod:`.location_settings`, which ends in :func:`checked_location` as well.  A plain directory is looked at:
``storage/`` in it makes it an mdbox, ``mailboxes/`` alone an sdbox.

What lies there (``evidence``) must not contradict the location: another kind of store, mailboxes under
another DIRNAME, messages of an mdbox without its map are refused.

With ``LAYOUT=index`` a mailbox lies in a directory that is called by its guid, and its name is in the list
index alone (:mod:`.list_index`); ``DIRNAME`` and ``INBOX`` mean nothing there.  ``INDEX=MEMORY`` is refused.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from dboxfs.errors import NoSuchStore, Unsupported
from dboxfs.store.evidence import (
    GUID,
    alt_root,
    first_container,
    first_message,
    is_by_guid,
    kind_by_index,
    map_file,
    names_in,
    other_dirname,
)
from dboxfs.store.mailbox_directories import MailboxDirectories
from dboxfs.store.mailbox_names import INDEX_ESCAPE, NameCoding
from dboxfs.store.user_variables import StoreUser, absolute_path, expand
from dboxfs.util.suggest import did_you_mean

if TYPE_CHECKING:
    from dboxfs.dbox.crypt import KeyRing

UNFINISHED = ".dboxfs-convert"
"""A file in the root of a store that ``dboxfs convert`` is still making."""

WRITTEN_NAMES = "dboxfs-names"
"""The directory in the control directory with one file a mailbox: the names that programs gave messages."""


class Kind(enum.Enum):
    """The two dbox formats: one file a message, or many."""

    SDBOX = "sdbox"
    MDBOX = "mdbox"


class TreeLayout(enum.Enum):
    """How the directories of mailboxes are called: by their names, or by their guids."""

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
    layout: TreeLayout = TreeLayout.FS
    list_index_name: str = "dovecot.list.index"
    escape: str = ""
    """The character that begins an escape in a stored name; empty: there are none."""
    directories: MailboxDirectories = field(default_factory=MailboxDirectories, compare=False, repr=False)
    """LAYOUT=index: the directory of each mailbox, as the list index was read last."""
    loose: bool = False
    """The root is the directory of the message files itself, and there is nothing else of a store."""

    @property
    def tree(self) -> str:
        """The directory whose subdirectories are the mailboxes."""
        return _join(self.root, self.mailbox_dir)

    @property
    def names(self) -> NameCoding:
        """How mailbox names are stored."""
        return NameCoding(self.utf8, self.escape, self.dirname)

    def same_names(self, kind: Kind, root: str) -> Location:
        """A store of the layout ``fs`` at *root*, with mailbox names that are stored as they are here."""
        escaped = self.layout is TreeLayout.FS or any(self.escape in name for name in self.directories.all)
        return Location(kind, root, utf8=self.utf8, escape=self.escape if escaped else "")

    def display_name(self, name: str, separator: str = "/") -> str:
        """The name of a mailbox for people."""
        return self.names.display(name, separator)

    def mailbox_path(self, name: str) -> str:
        """The directory that makes mailbox *name* exist (sdbox: that holds its messages)."""
        if self.layout is TreeLayout.INDEX:
            return _join(self.tree, self.directories.of(name))
        if name == "INBOX" and self.inbox is not None:
            return self.inbox
        return _join(self.tree, name, self.dirname)

    def folder_path(self, name: str) -> str:
        """The directory of the mailbox tree that holds what *name* stands for, a mailbox or only a parent."""
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
        """mdbox: the directory of ``m.N`` files that were moved away."""
        return None if self.alt is None else _join(self.alt, "storage")

    @property
    def map_dir(self) -> str:
        """mdbox: the directory of ``dovecot.map.index*``."""
        return self.storage if self.loose else _join(self.index or self.root, "storage")

    @property
    def tree_lock(self) -> str:
        """The lock file for making, deleting and renaming mailboxes.

        With VOLATILEDIR several namespaces may have theirs in one directory: Dovecot adds the SHA-1 of the
        namespace's prefix, which a location doesn't tell; it is taken to be empty, as in most installations.
        """
        if self.volatile is None:
            return _join(self.index or self.root, "mailboxes.lock")
        return _join(self.volatile, "mailboxes.lock" + hashlib.sha1(b"", usedforsecurity=False).hexdigest())

    @property
    def control_dir(self) -> str:
        """The directory of ``subscriptions`` and ``dovecot-uidvalidity*``."""
        return self.control or self.root


Values = Mapping[str, str | bool | TreeLayout]
"""Fields of a :class:`Location`, by name."""


def _join(*parts: str) -> str:
    return os.path.join(*[p for p in parts if p])


_KEYS = {
    "INDEX": "index",
    "INDEXCACHE": "index_cache",
    "CONTROL": "control",
    "ALT": "alt",
    "INBOX": "inbox",
    "MAILBOXDIR": "mailbox_dir",
    "DIRNAME": "dirname",
    "FULLDIRNAME": "dirname",
    "SUBSCRIPTIONS": "subscriptions",
    "VOLATILEDIR": "volatile",
    "LISTINDEX": "list_index_name",
}
_PATHS = frozenset({"INDEX", "INDEXCACHE", "CONTROL", "ALT", "INBOX", "VOLATILEDIR"})
# Keys that mean their default when nothing is behind them.
_DEFAULTS = frozenset({"MAILBOXDIR", "DIRNAME"})
# Keys that change nothing for a program that reads the tree itself.
_IGNORED = frozenset({"INDEXPVT", "BROKENCHAR", "ITERINDEX", "NO-NOSELECT"})
_DRIVERS = {"sdbox": Kind.SDBOX, "dbox": Kind.SDBOX, "mdbox": Kind.MDBOX}


def parse_location(text: str, *, damaged: bool = False, user: StoreUser | None = None) -> Location:
    """Read *text*, a ``mail_location`` string or a plain directory, and check that a store is there.

    :param user: whose store it is: ``%``-variables and ``~/`` are about that user.  None: nobody is known,
        variables are refused, and ``~/`` is the caller's home.
    :param damaged: parts of the store may be missing or unreadable; only its root must be there.
    :raises NoSuchStore: nothing there, no dbox, or not readable.
    :raises Unsupported: a dbox store of a kind that dboxfs doesn't read.
    """
    if not text:
        raise NoSuchStore("STORE is empty; give the root of a dbox store or a mail location")
    driver, colon, rest = text.partition(":")
    if colon and driver.lower() in _DRIVERS:
        return _checked(_parse_mail_location(_DRIVERS[driver.lower()], rest, text, user), damaged=damaged)
    if colon and driver.lower() in ("maildir", "mbox", "imapc", "pop3c", "auto", "cydir", "obox"):
        raise NoSuchStore(f"{text}: {driver} is no dbox format; dboxfs reads sdbox and mdbox")
    root = absolute_path(text)
    found = Location(_detect(root), root, alt=alt_root(root))
    if is_by_guid(found.tree, found.tree, found.dirname):
        found = replace(found, layout=TreeLayout.INDEX, escape=INDEX_ESCAPE)
    return _checked(found, damaged=damaged)


def checked_location(kind: str, root: str, values: Values, *, damaged: bool) -> Location:
    """The location with these fields of :class:`Location`, once it is sure that such a store is there.

    :param kind: the driver's name, in any case.
    :raises NoSuchStore: as :func:`parse_location`, or another driver.
    :raises Unsupported: as :func:`parse_location`.
    """
    if kind.lower() not in _DRIVERS:
        raise NoSuchStore(f"{root}: {kind} is no dbox format; dboxfs reads sdbox and mdbox")
    return _checked(_with_alt(_DRIVERS[kind.lower()], root, values), damaged=damaged)


def _with_alt(kind: Kind, root: str, values: Values) -> Location:
    location = Location(kind, root, **values)  # type: ignore[arg-type]
    if location.layout is TreeLayout.INDEX:
        location = replace(location, inbox=None, escape=location.escape or INDEX_ESCAPE)
    if location.alt is None and (alt := alt_root(root)) is not None:
        return replace(location, alt=alt)
    return location


def _parse_mail_location(kind: Kind, rest: str, text: str, user: StoreUser | None) -> Location:
    parts = [part.replace("\0", ":") for part in rest.replace("::", "\0").split(":")]
    parts = [expand(part, user, version=(2, 3)) for part in parts]
    if not parts[0]:
        raise NoSuchStore(f"{text}: no directory after the driver name")
    values: dict[str, str | bool | TreeLayout] = {}
    for part in parts[1:]:
        key, _, value = part.partition("=")
        _take_key(values, key.upper(), value, text, user)
    return _with_alt(kind, absolute_path(parts[0], user), values)


def _take_key(
    values: dict[str, str | bool | TreeLayout], key: str, value: str, text: str, user: StoreUser | None
) -> None:
    if key == "LAYOUT":
        values["layout"] = layout_of(value, text)
    elif key == "UTF-8":
        values["utf8"] = True
    elif key in _DEFAULTS and not value:
        values.pop(_KEYS[key], None)
    elif key in _KEYS:
        if not value:
            raise NoSuchStore(f"{text}: {key}= needs a value")
        if key == "INDEX":
            require_index_on_disk(value, text)
        values[_KEYS[key]] = absolute_path(value, user) if key in _PATHS else value
        if key == "FULLDIRNAME":
            values["full_dirname"] = True
    elif key not in _IGNORED and key:
        known = (*_KEYS, *_IGNORED, "LAYOUT", "UTF-8")
        raise NoSuchStore(f"{text}: unknown key {key!r} in the mail location{did_you_mean(key, known)}")


def layout_of(value: str, text: str) -> TreeLayout:
    """The layout of the mailbox tree that is called *value*.

    :param text: what the user gave, for the message.
    :raises Unsupported: another layout than ``fs`` and ``index``.
    """
    try:
        return TreeLayout(value.lower())
    except ValueError:
        raise Unsupported(f"{text}: LAYOUT={value} is not supported; dbox has fs and index") from None


def require_index_on_disk(value: str, text: str) -> None:
    """Refuse ``MEMORY`` in the place of a directory of indexes.

    :raises Unsupported: it is that.
    """
    if value.upper() == "MEMORY":
        raise Unsupported(f"{text}: INDEX=MEMORY leaves no index on disk; dbox can't be read without one")


def _detect(root: str) -> Kind:
    try:
        names = set(os.listdir(root))
    except OSError as exc:
        raise _unreadable(root, exc, "give the root of a dbox store") from None
    if "mailboxes" not in names:
        _refuse_unfinished(root)
    if "storage" in names:
        here = Location(Kind.MDBOX, root, alt=alt_root(root))
        return Kind.SDBOX if _other_kind(here) is not None else Kind.MDBOX
    if "mailboxes" in names:
        return Kind.SDBOX
    for inner in ("mdbox", "sdbox", "dbox", "mail", "Mail"):
        if inner in names and os.path.isdir(os.path.join(root, inner, "mailboxes")):
            raise NoSuchStore(f"{root}: no dbox store, but {os.path.join(root, inner)} looks like one")
    if {"cur", "new", "tmp"} <= names:
        raise NoSuchStore(f"{root}: this is a Maildir; dboxfs reads sdbox and mdbox")
    raise NoSuchStore(
        f"{root}: no dbox store (neither mailboxes/ nor storage/ in it); give the root of one, or a Dovecot "
        "mail_location"
    )


def _checked(location: Location, *, damaged: bool) -> Location:
    needed = [location.root] if damaged else [location.root, location.tree]
    if location.kind is Kind.MDBOX and not damaged:
        needed += [location.storage, location.map_dir]
    for path in needed:
        try:
            os.scandir(path).close()
        except OSError as exc:
            if isinstance(exc, FileNotFoundError):
                _refuse_unfinished(location.root)
                _refuse_other_kind(location)
                _refuse_missing_index(location, path)
            hint = f"is {location.root} an {location.kind.value} store?"
            raise _unreadable(path, exc, hint) from None
    _refuse_other_layout(location)
    _refuse_contradiction(location, damaged=damaged)
    return location


def _unreadable(path: str, error: OSError, hint: str) -> NoSuchStore:
    """Why a directory can't be read, and what to do.

    :param hint: what to do if it is not there.
    """
    if isinstance(error, FileNotFoundError):
        return NoSuchStore(f"{path}: no such directory; {hint}")
    if isinstance(error, NotADirectoryError):
        return NoSuchStore(f"{path}: not a directory; {hint}")
    if isinstance(error, PermissionError):
        return NoSuchStore(f"{path}: permission denied; run dboxfs as the store's owner or as root")
    return NoSuchStore(f"{path}: {error.strerror}")


def _refuse_contradiction(location: Location, *, damaged: bool) -> None:
    """What lies there must be what the location says: written as another kind it would be lost.

    :param damaged: the map may be missing.
    :raises NoSuchStore: it is something else.
    """
    _refuse_other_kind(location)
    stray = other_dirname(location.tree, location.dirname) if location.layout is TreeLayout.FS else None
    if stray is not None:
        raise NoSuchStore(
            f"{location.root}: no mailbox directory is called {location.dirname}, but {stray} holds a "
            f"mailbox; give DIRNAME={os.path.basename(stray)} (Dovecot 2.4: mailbox_directory_name)"
        )
    if location.kind is Kind.MDBOX and not damaged and map_file(location.map_dir) is None:
        container = first_container((location.storage, location.alt_storage))
        if container is not None:
            raise NoSuchStore(
                f"{location.root}: {container} holds messages, but there is no map in {location.map_dir}; "
                "give INDEX= if the indexes lie elsewhere (Dovecot 2.4: mail_index_path), or make a new "
                "store of the messages: dboxfs rescue STORE DST"
            )


def _refuse_other_kind(location: Location) -> None:
    other = _other_kind(location)
    if other is not None:
        kind = "mdbox" if location.kind is Kind.SDBOX else "sdbox"
        raise NoSuchStore(
            f"{location.root}: this is an {kind} store ({other} says so); give {kind}:{location.root}"
        )


def _refuse_missing_index(location: Location, missing: str) -> None:
    """Say that it is INDEX= that leads nowhere, if *missing* lies below it."""
    if location.index is not None and missing == location.map_dir != location.storage:
        raise NoSuchStore(
            f"{location.root}: INDEX={location.index} leads to no index of this store ({missing}: no such "
            "directory); give the one that Dovecot has (Dovecot 2.4: mail_index_path)"
        )


def _other_kind(location: Location) -> str | None:
    """A path that shows that the store is of the other kind; None: nothing does."""
    indexes = None if location.index is None else _join(location.index, location.mailbox_dir)
    trees = (location.tree, location.inbox, indexes)
    container = first_container((location.storage, location.alt_storage))
    container = container or map_file(location.map_dir) or map_file(location.storage)
    if location.kind is Kind.SDBOX and container is not None:
        message = first_message((location.tree, location.inbox))
        return None if message is not None and kind_by_index(trees) == "sdbox" else container
    if location.kind is Kind.MDBOX and container is None:
        return first_message((location.tree, location.inbox))
    return None


def _refuse_unfinished(root: str) -> None:
    """What an interrupted conversion has left becomes a store when the conversion goes on."""
    if os.path.lexists(os.path.join(root, UNFINISHED)):
        raise NoSuchStore(f"{root}: an unfinished conversion; the same dboxfs convert goes on with it")


def _refuse_other_layout(location: Location) -> None:
    """One of the two layouts would show the other one's store empty, or under guids.

    :raises NoSuchStore: mailboxes lie under their guids, and the location says otherwise; or the reverse.
    """
    indexes = _join(location.list_index_dir, location.mailbox_dir)
    by_guid = is_by_guid(location.tree, indexes, location.dirname)
    if by_guid and location.layout is TreeLayout.FS:
        wanted = f"guids; give {location.kind.value}:{location.root}:LAYOUT=index (Dovecot 2.4: "
        raise NoSuchStore(
            f"{location.root}: its mailboxes lie under their {wanted}mailbox_list_layout = index)"
        )
    by_name = any(GUID.fullmatch(name) is None for name in names_in(location.tree))
    if not by_guid and location.layout is TreeLayout.INDEX and by_name:
        wanted = "leave LAYOUT=index (Dovecot 2.4: mailbox_list_layout = index) out"
        raise NoSuchStore(f"{location.root}: its mailboxes don't lie under their guids; {wanted}")
