"""A Dovecot ``mail_location`` string of 2.3, or a plain directory (mailbox-layout section 1).

``driver:root[:KEY=value|:FLAG]...`` with the drivers ``sdbox`` (alias ``dbox``) and ``mdbox``; ``::`` is a
literal colon.  ``%``-variables are expanded if the user is known, else refused (:mod:`.user_variables`).  The
content of a plain directory decides: ``storage/`` means an mdbox, ``mailboxes/`` alone an sdbox.
``INDEX=MEMORY`` is refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from dboxfs.errors import NoSuchStore, Unsupported
from dboxfs.store.evidence import alt_root, is_by_guid
from dboxfs.store.location import Kind, Location, TreeLayout
from dboxfs.store.location_check import check_location, other_kind, refuse_unfinished, unreadable
from dboxfs.store.mailbox_names import INDEX_ESCAPE
from dboxfs.store.user_variables import StoreUser, absolute_path, expand
from dboxfs.util.suggest import did_you_mean

Values = Mapping[str, str | bool | TreeLayout]
"""Fields of a :class:`Location`, by name."""

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
# Keys that mean their default if they have no value.
_DEFAULTS = frozenset({"MAILBOXDIR", "DIRNAME"})
# Keys that change nothing for a program that reads the tree itself.
_IGNORED = frozenset({"INDEXPVT", "BROKENCHAR", "ITERINDEX", "NO-NOSELECT"})
_DRIVERS = {"sdbox": Kind.SDBOX, "dbox": Kind.SDBOX, "mdbox": Kind.MDBOX}


def parse_location(text: str, *, damaged: bool = False, user: StoreUser | None = None) -> Location:
    """Parse *text*, a ``mail_location`` string or a plain directory, and check that the store exists.

    :param user: the store's user, for ``%``-variables and ``~/``.  None: unknown: variables are refused, and
        ``~/`` is the caller's home.
    :param damaged: parts of the store may be missing or unreadable; only its root must be there.
    :raises NoSuchStore: no store, no dbox, or not readable.
    :raises Unsupported: a dbox store of a kind that dboxfs doesn't read.
    """
    found = named_location(text, user)
    return check_location(location_in(absolute_path(text)) if found is None else found, damaged=damaged)


def location_in(root: str) -> Location:
    """The location of the store in the directory *root*, as far as its files show it.

    :raises NoSuchStore: there is none.
    """
    found = Location(_detect(root), root, alt=alt_root(root))
    if is_by_guid(found.tree, found.tree, found.dirname):
        return replace(found, layout=TreeLayout.INDEX, escape=INDEX_ESCAPE)
    return found


def named_location(text: str, user: StoreUser | None = None) -> Location | None:
    """The location in a ``mail_location`` string, without a check of the files; None: *text* is a directory.

    :raises NoSuchStore: *text* can't be parsed, or names no dbox.
    :raises Unsupported: as :func:`parse_location`.
    """
    if not text:
        raise NoSuchStore("STORE is empty; give the root of a dbox store or a mail location")
    driver, colon, rest = text.partition(":")
    if colon and driver.lower() in _DRIVERS:
        return _parse_mail_location(_DRIVERS[driver.lower()], rest, text, user)
    if colon and driver.lower() in ("maildir", "mbox", "imapc", "pop3c", "auto", "cydir", "obox"):
        raise NoSuchStore(f"{text}: {driver} is no dbox format; dboxfs reads sdbox and mdbox")
    return None


def location_with(kind: str, root: str, values: Values) -> Location:
    """The location with these fields of :class:`Location`, without a check of the files.

    :param kind: the driver's name, in any case.
    :raises NoSuchStore: another driver.
    """
    if kind.lower() not in _DRIVERS:
        raise NoSuchStore(f"{root}: {kind} is no dbox format; dboxfs reads sdbox and mdbox")
    return _with_alt(_DRIVERS[kind.lower()], root, values)


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
    """The layout of the mailbox tree with the name *value*.

    :param text: the user's input, for the message.
    :raises Unsupported: another layout than ``fs`` and ``index``.
    """
    try:
        return TreeLayout(value.lower())
    except ValueError:
        raise Unsupported(f"{text}: LAYOUT={value} is not supported; dbox has fs and index") from None


def require_index_on_disk(value: str, text: str) -> None:
    """Refuse ``MEMORY`` in the place of a directory of indexes.

    :raises Unsupported: *value* is ``MEMORY``.
    """
    if value.upper() == "MEMORY":
        raise Unsupported(f"{text}: INDEX=MEMORY leaves no index on disk; dbox can't be read without one")


def _detect(root: str) -> Kind:
    try:
        names = set(os.listdir(root))
    except OSError as exc:
        raise unreadable(root, exc, "give the root of a dbox store") from None
    if "mailboxes" not in names:
        refuse_unfinished(root)
    if "storage" in names:
        here = Location(Kind.MDBOX, root, alt=alt_root(root))
        return Kind.SDBOX if other_kind(here) is not None else Kind.MDBOX
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
