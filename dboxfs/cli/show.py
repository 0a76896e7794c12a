"""``info``, ``dump``: look into a store without mounting it."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable

import trio

from dboxfs.cli.help_texts import STORE_HELP
from dboxfs.cli.logs import log_to_stderr, one_line, tell
from dboxfs.cli.object_store import access_of
from dboxfs.cli.owned import store_to_read
from dboxfs.cli.stores import add_at, add_store, choose_store
from dboxfs.dovecot.user import FoundUser
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Folder, Location, Store
from dboxfs.store.hidden import hidden_in, told
from dboxfs.store.mail_settings import for_dovecot
from dboxfs.tools.dump import describe_file


def declare_info(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs info``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = "Show where the parts of STORE are, its mailboxes and their counts.\n\n" + STORE_HELP
    add_store(parser, by_option=by_option)
    add_at(parser)
    parser.set_defaults(run=info)


def declare_dump(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs dump``."""
    parser.description = "Show any u.N, m.N, dovecot.index, .log, .cache or map file in readable form."
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(run=dump)


def info(arguments: argparse.Namespace) -> int:
    """``dboxfs info STORE``."""
    chosen = choose_store(arguments, archives=True)
    if chosen.found is not None:
        _print_user(chosen.found)
    return with_store(chosen.location, _print_info, arguments)


def dump(arguments: argparse.Namespace) -> int:
    """``dboxfs dump FILE``."""
    for line in describe_file(arguments.file):
        print(line)
    return 0


def with_store(
    location: Location, work: Callable[[Store], Awaitable[int]], arguments: argparse.Namespace
) -> int:
    """Open a store and do *work*; returns the exit status.

    :param arguments: with those of :func:`~dboxfs.cli.stores.add_at`.
    """
    log_to_stderr()

    async def run() -> int:
        async with (
            FileSystem(ThreadsDriver()) as fs,
            store_to_read(fs, location, arguments.at, access_of(arguments)) as store,
        ):
            return await work(store)

    return trio.run(run)


def shown_folders(store: Store) -> list[Folder]:
    """All folders of a store but its root, in the order of their names."""
    return sorted(
        (folder for folder in store.folders.values() if folder.parent is not None),
        key=lambda folder: folder.name,
    )


async def warn_of_hidden(store: Store) -> None:
    """Warn on stderr of mail that the store may hide: one line for each cause."""
    for line in told(await hidden_in(store)):
        tell(line)


def shown_name(store: Store, folder: Folder) -> str:
    """The full name of a folder, in one line."""
    return one_line(store.display_name(folder))


def trouble(store: Store) -> int:
    """The exit status: 1 if a folder could not be read (the log has it), else 0."""
    return int(bool(store.index_errors) or any(folder.error for folder in store.folders.values()))


def folder_path(folder: Folder) -> str:
    """The path of a folder's directory in a mount."""
    above = folder.parent
    return folder.shown if above is None or above.parent is None else f"{folder_path(above)}/{folder.shown}"


def _print_user(found: FoundUser) -> None:
    """Print Dovecot's answer about the user, before the facts of the store itself."""
    user = found.user
    ids = ", ".join(
        f"{name} {value}" for name, value in (("uid", user.uid), ("gid", user.gid)) if value is not None
    )
    for label, value in (
        ("user", f"{user.name} ({ids})" if ids else user.name),
        ("home", user.home),
        ("dovecot", f"{found.version[0]}.{found.version[1]}: {found.described}"),
        ("separator", found.separator),
        ("compression", found.compression),
    ):
        if value:
            print(one_line(f"{label + ':':<14}{value}"))


async def _print_info(store: Store) -> int:
    location = store.location
    version = {2: "2", 3: "3 (new messages; not for Dovecot)", None: "unknown"}[store.dbox_version]
    print(f"format:       {location.kind.value}, dbox version {version}, layout {location.layout.value}")
    for label, value in (
        ("root", location.root),
        ("inbox", location.inbox),
        ("index", location.index),
        ("control", location.control),
        ("alt", location.alt),
        ("attachments", location.attachments),
    ):
        if value is not None:
            print(f"{label + ':':<14}{one_line(value)}")
    for line in for_dovecot(location) if store.dbox_version == 2 else ():
        print(one_line(line))
    await warn_of_hidden(store)
    boxes = [folder.mailbox for folder in shown_folders(store) if folder.mailbox is not None]
    print(f"mailboxes:    {len(boxes)}")
    print(f"messages:     {sum(len(box) for box in boxes)}")
    if store.storage is not None:
        mapping = await store.storage.map()
        dead = int((mapping.refcounts == 0).sum())
        print(f"storage:      {len(mapping)} messages in the map, {dead} of them wait for a purge")
    print()
    print(f"{'messages':>9} {'unseen':>9} {'uidnext':>9} {'uidvalidity':>11}  mailbox")
    for folder in shown_folders(store):
        box = folder.mailbox
        if box is None:
            print(f"{'-':>9} {'-':>9} {'-':>9} {'-':>11}  {shown_name(store, folder)}")
        else:
            counts = f"{len(box):>9} {box.unseen:>9} {box.uid_next:>9} {box.uid_validity:>11}"
            print(f"{counts}  {shown_name(store, folder)}")
    return trouble(store)
