"""``ls``: lists the mailboxes of a store, or the messages that meet conditions."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable
from shlex import quote
from typing import NamedTuple

from msgspec.structs import replace

from dboxfs.cli.dates import date_or_days
from dboxfs.cli.help_texts import STORE_HELP
from dboxfs.cli.logs import one_line, tell
from dboxfs.cli.show import folder_path, shown_folders, shown_name, trouble, warn_of_hidden, with_store
from dboxfs.cli.stores import add_at, add_store, choose_store
from dboxfs.cli.view_paths import ViewPaths
from dboxfs.errors import NoSuchMailbox
from dboxfs.store import Folder, Store
from dboxfs.store.headers import HeaderReader
from dboxfs.store.names.read import NameReader
from dboxfs.tools.finding import FoundMessage, Query, find
from dboxfs.util import mounts
from dboxfs.util.dates import rfc3339
from dboxfs.vfs.options import View
from dboxfs.vfs.views.layout import INBOX

_SIZES = {"": 1, "k": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs ls``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "List the mailboxes of STORE, or the messages of MAILBOX: uid, size, received, flags. With an\n"
        "option that says which messages: those of all mailboxes, or of MAILBOX. STORE may be a\n"
        "mountpoint of dboxfs, too. A message that can't be read is among those that were looked for, as\n"
        "damaged, and the exit status is 1; with -0 it is only told.\n\n" + STORE_HELP
    )
    add_store(parser, by_option=by_option)
    add_at(parser)
    parser.add_argument("mailbox", metavar="MAILBOX", nargs="?")
    which = parser.add_argument_group("which messages (all of it has to be true)")
    which.add_argument("--unseen", action="store_true", help="without \\Seen")
    which.add_argument("--flagged", action="store_true", help="with \\Flagged")
    which.add_argument(
        "--keyword", action="append", default=[], metavar="K", help="with this keyword; may be repeated"
    )
    which.add_argument("--from", dest="sender", metavar="TEXT", help="TEXT is in the field From")
    which.add_argument("--subject", metavar="TEXT", help="TEXT is in the field Subject")
    which.add_argument(
        "--since",
        type=date_or_days,
        metavar="DATE",
        help="received on DATE (2026-06-30, local time; or 2026-06-30T08:00:00Z) or later, or in the last "
        "days (7d)",
    )
    which.add_argument("--larger", type=_size, metavar="SIZE", help="than SIZE bytes (20k, 3M, 1G)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="one JSON object a line, with From and Subject")
    how.add_argument(
        "-0", dest="nul", action="store_true", help="only the paths in a mount, each with a NUL behind it"
    )
    parser.set_defaults(run=ls)


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1:]) if text[-1:] in _SIZES else (text, "")
    if not (number.isascii() and number.isdigit()) or len(number) > 15:
        raise argparse.ArgumentTypeError(f"{text!r}: give bytes, or 20k, 3M, 1G")
    return int(number) * _SIZES[unit]


def ls(arguments: argparse.Namespace) -> int:
    """``dboxfs ls STORE|MOUNTPOINT [MAILBOX]``."""
    mountpoint = _take_mountpoint(arguments)
    query = _query(arguments)
    location = choose_store(arguments, archives=True).location
    if arguments.mailbox is None and query == Query() and not arguments.json and not arguments.nul:
        return with_store(location, _list_mailboxes, arguments)
    work: Callable[[Store], Awaitable[int]]
    listing = _Listing(arguments, query, mountpoint)
    work = listing.run
    return with_store(location, work, arguments)


def _query(arguments: argparse.Namespace) -> Query:
    headers = [("from", arguments.sender), ("subject", arguments.subject)]
    return Query(
        unseen=arguments.unseen,
        flagged=arguments.flagged,
        keywords=tuple(arguments.keyword),
        since=arguments.since,
        larger=arguments.larger,
        headers=tuple((name, text) for name, text in headers if text is not None),
    )


class _Mountpoint(NamedTuple):
    """A mount of dboxfs.  ``has_view``: messages have other paths than those of the default view."""

    path: str
    has_view: bool


def _take_mountpoint(arguments: argparse.Namespace) -> _Mountpoint | None:
    """If STORE is a mountpoint, put the mounted store in its place; returns the mountpoint, or None."""
    point = os.path.abspath(str(arguments.store)) if arguments.store is not None else None
    if point is None or mounts.mounted_on(os.path.realpath(point)) is None:
        return None
    try:
        with open(os.path.join(point, ".dboxfs", "store.json"), encoding="utf-8") as file:
            said = json.load(file)
        location, view = str(said["mail_location"]), said["view"]
    except (OSError, ValueError, KeyError):
        return None
    arguments.store = location
    return _Mountpoint(point, has_view=view != View.EML.value)


class _Listing:
    """Prints messages.

    :param mountpoint: paths are those in this mount; None: they begin with the name of the mailbox.
    """

    def __init__(self, arguments: argparse.Namespace, query: Query, mountpoint: _Mountpoint | None) -> None:
        self._mailbox: str | None = arguments.mailbox
        self._json: bool = arguments.json
        self._nul: bool = arguments.nul
        self._query = replace(query, wants=("from", "subject")) if arguments.json else query
        self._above = mountpoint.path if mountpoint is not None else ""
        in_view = mountpoint is not None and mountpoint.has_view and (arguments.json or arguments.nul)
        self._view_paths = ViewPaths(self._above) if in_view else None
        self._failed = False

    async def run(self, store: Store) -> int:
        """
        :raises NoSuchMailbox: the store has no mailbox of this name.
        """
        folders = self._folders(store)
        names = NameReader(store)
        await names.load()
        headers = HeaderReader(store.fs, store.location)
        for folder in folders:
            box = folder.mailbox
            if box is None:
                continue
            await store.check(folder)
            for message in await find(box, self._query, headers):
                if message.error:
                    self._failed = True
                    tell(f"{box.display_name}: uid {message.uid}: {message.error}")
                self._failed |= message.unread  # the reason is in the log
                if message.unread and self._nul and self._query.reads:
                    continue  # a program takes each path for a message that meets the conditions
                self._print(store, folder, names.names.name(folder, message.uid), message)
        return int(self._failed)

    def _folders(self, store: Store) -> list[Folder]:
        all_folders = shown_folders(store)
        if self._mailbox is None:
            return all_folders
        names = (store.display_name, folder_path)
        found = [folder for folder in all_folders if self._mailbox in [name(folder) for name in names]]
        if not found or found[0].mailbox is None:
            root = store.location.root
            raise NoSuchMailbox(
                f"{self._mailbox}: no such mailbox in {root}; dboxfs ls {quote(root)} lists them"
            )
        return found[:1]

    def _path(self, folder: Folder, name: bytes, uid: int) -> str | None:
        """The path of a message; None: the mount doesn't show it yet, or any more."""
        if self._view_paths is None:
            return os.path.join(self._above, folder_path(folder), os.fsdecode(name))
        guid = folder.mailbox.guid if folder.mailbox is not None else None
        return self._view_paths.of(guid, uid, is_inbox=folder.name == INBOX)

    def _print(self, store: Store, folder: Folder, name: bytes, message: FoundMessage) -> None:
        path = self._path(folder, name, message.uid)
        facts = message.facts
        readable = facts is not None and not facts.damaged
        if self._nul:
            sys.stdout.write(f"{path}\0" if path is not None else "")
            return
        received = rfc3339(facts.received) if facts is not None and readable else None
        if self._json:
            said = {
                "mailbox": store.display_name(folder),
                "uid": message.uid,
                "path": path,
                "size": facts.size if facts is not None and readable else None,
                "received": received,
                "flags": message.flags,
                "keywords": message.keywords,
                "from": message.fields.get("from"),
                "subject": message.fields.get("subject"),
            }
            print(json.dumps(said))
            return
        marks = " ".join((*message.flags, *message.keywords))
        size = facts.size if facts is not None else 0
        line = one_line(f"{message.uid:>9} {size:>10}  {received or 'damaged':<20}  {marks}".rstrip())
        print(line if self._mailbox is not None else f"{shown_name(store, folder)}:{line}")


async def _list_mailboxes(store: Store) -> int:
    await warn_of_hidden(store)
    for folder in shown_folders(store):
        count = f"{len(folder.mailbox):>9}" if folder.mailbox is not None else f"{'-':>9}"
        print(f"{count}  {shown_name(store, folder)}")
    return trouble(store)
