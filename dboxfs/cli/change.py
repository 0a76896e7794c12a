"""``init`` and ``purge``: change a store without mounting it."""

from __future__ import annotations

import argparse
import errno
import grp
import os
import pwd
from contextlib import suppress

import trio
from msgspec.structs import replace

from dboxfs.cli.begin_writing import begin_writing
from dboxfs.cli.each_user import EachUser, add_each_user, for_each_user
from dboxfs.cli.help_texts import STORE_HELP
from dboxfs.cli.logs import log_to_stderr, one_line
from dboxfs.cli.owned import store_to_read, store_to_write
from dboxfs.cli.progress import Meter
from dboxfs.cli.status import UsageError
from dboxfs.cli.stores import add_store, choose_new_store, choose_store
from dboxfs.dovecot.user import FoundUser
from dboxfs.errors import MailHidden
from dboxfs.fsapi import FileSystem, Permissions, ThreadsDriver
from dboxfs.store.hidden import hidden_in, summary
from dboxfs.store.mail_settings import for_dovecot
from dboxfs.store.write import Neighbour, PurgeProgress, StoreWriter, WriteOptions
from dboxfs.store.write.new_store import ROOT, init_owned_store

INIT_HELP = """\
Make an empty store, with an INBOX, where nothing is yet. STORE is one of
  /srv/mail/ann/mdbox                     a directory, with --format
  mdbox:/srv/mail/ann:LAYOUT=index:INDEX=/var/index/ann
                                          a mail_location of Dovecot 2.3
Instead of STORE:
  --user ann                              where the installed Dovecot has the mail of ann
  --set mail_driver=mdbox --set mail_path=/srv/mail/ann
                                          settings of Dovecot 2.4
"""


def declare_init(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs init``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = INIT_HELP
    add_store(parser, by_option=by_option)
    parser.add_argument(
        "--format", choices=("sdbox", "mdbox"), help="of a store that is named by its directory"
    )
    parser.add_argument(
        "--dbox-version",
        type=int,
        choices=(2, 3),
        default=2,
        help="of the messages that dboxfs will write: 2, Dovecot's (default), or 3, which only dboxfs reads",
    )
    parser.add_argument(
        "--owner",
        metavar="USER[:GROUP]",
        type=owner,
        help="whose the store is (as root; default: the user of --user, else the owner and group of the "
        "directory above STORE)",
    )
    parser.set_defaults(run=init)


def declare_purge(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs purge``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        "Give back the space of messages that no mailbox has any more. Only where no Dovecot\n"
        "uses STORE meanwhile; beside one, use: doveadm purge\n\n" + STORE_HELP
    )
    add_store(parser, by_option=by_option, users=True)
    add_each_user(parser)
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="change nothing, tell what would be freed"
    )
    parser.add_argument(
        "--force", action="store_true", help="also a store that seems to hide mail (no INBOX)"
    )
    parser.set_defaults(run=purge)


def init(arguments: argparse.Namespace) -> int:
    """``dboxfs init STORE [--format sdbox|mdbox] [--dbox-version 2|3] [--owner USER[:GROUP]]``."""
    log_to_stderr()
    chosen = choose_new_store(arguments)
    location, root = chosen.location, chosen.location.root
    permissions = new_root_permissions(root, arguments.owner or _ids(chosen.found))

    async def run() -> None:
        async with FileSystem(ThreadsDriver()) as fs:
            options = WriteOptions(dbox_version=arguments.dbox_version)
            await init_owned_store(fs, location, permissions, options)

    trio.run(run)
    kind, version = location.kind.value, arguments.dbox_version
    if version != 2:
        print(one_line(f"{root}: an empty {kind} store of dbox version {version}, for dboxfs alone"))
        return 0
    lines = for_dovecot(location) if chosen.found is None else [f"it is the mail of {chosen.found.user.name}"]
    for line in (f"{root}: an empty {kind} store", *lines):
        print(one_line(line))
    if os.stat(root).st_uid == 0:
        print(
            one_line(
                f"{root}: belongs to root; for mail of another user remove it, and: dboxfs init --owner USER"
            )
        )
    return 0


def _ids(found: FoundUser | None) -> tuple[int, int] | None:
    """uid and gid of the owner of this user's new store; None: the owner of any new store."""
    if found is None or found.user.uid is None or found.user.gid is None or os.geteuid() != 0:
        return None
    return found.user.uid, found.user.gid


def owner(text: str) -> tuple[int, int]:
    """The user and group ids of USER[:GROUP], names or numbers; without GROUP the user's own.

    :raises argparse.ArgumentTypeError: there is no such user or group.
    """
    name, colon, group = text.partition(":")
    try:
        user = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
        uid, gid = user.pw_uid, user.pw_gid
    except KeyError:
        if not name.isdecimal() or not colon:
            raise argparse.ArgumentTypeError(f"{text!r}: no such user (a number needs :GROUP then)") from None
        uid = int(name)
    if colon:
        try:
            gid = int(group) if group.isdecimal() else grp.getgrnam(group).gr_gid
        except KeyError:
            raise argparse.ArgumentTypeError(f"{text!r}: no such group") from None
    return uid, gid


def new_root_permissions(root: str, given: tuple[int, int] | None) -> Permissions:
    """Owner and mode of a new root.  For root: the *given* owner, or that of the directory above.

    An empty directory at *root* gets the *given* owner here.

    :raises UsageError: *given* is another user, and the process is not root's.
    """
    if os.geteuid() != 0:
        if given is not None and given[0] != os.geteuid():
            raise UsageError("--owner: only root can make a store of another user")
        return ROOT
    if given is None:
        try:
            above = os.stat(os.path.dirname(root))
        except OSError:
            return ROOT  # making the root gives the error
        return replace(ROOT, uid=above.st_uid, gid=above.st_gid)
    with suppress(OSError):
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not os.listdir(fd):
                os.fchown(fd, *given)
        finally:
            os.close(fd)
    return replace(ROOT, uid=given[0], gid=given[1])


def _tell_needs(storage: str, progress: PurgeProgress, *, dry_run: bool) -> None:
    """Print the room that a purge needs, and the free room.

    :raises OSError: ENOSPC: there is too little, and this is no dry run.
    """
    if not progress.files:
        return
    found = os.statvfs(storage)
    free = found.f_bavail * found.f_frsize
    text = (
        f"{storage}: {progress.files} files are rewritten one after the other, which needs room for "
        f"{progress.bytes_at_once} bytes there; {free} are free"
    )
    print(one_line(text))
    if free < progress.bytes_at_once and not dry_run:
        raise OSError(errno.ENOSPC, "too little room for a purge; make some, and begin again", storage)


def purge(arguments: argparse.Namespace) -> int:
    """``dboxfs purge STORE [--dry-run]``."""
    log_to_stderr()
    if arguments.users is not None:
        return for_each_user(arguments, EachUser("purged", purge, tells_all=True))
    location = choose_store(arguments).location
    meter = Meter()

    def show(progress: PurgeProgress) -> None:
        if not progress.files_done:
            _tell_needs(location.storage, progress, dry_run=arguments.dry_run)
        meter.show("purged", progress.files_done, progress.files, what="files")

    async def run() -> int:
        opened = store_to_read if arguments.dry_run else store_to_write
        async with FileSystem(ThreadsDriver()) as fs, opened(fs, location) as store:
            found = await hidden_in(store)
            if found and not arguments.force:
                raise MailHidden(f"{summary(found)}; nothing was purged (--force: purge all the same)")
            options = WriteOptions(neighbour=Neighbour.ALONE)
            writer = StoreWriter(store.fs, location, store.owner, options)
            if not arguments.dry_run:
                await begin_writing(writer, store, options)
            done = await writer.purge(dry_run=arguments.dry_run, report=show)
        meter.clear()
        verb = "would free" if arguments.dry_run else "freed"
        print(f"{verb} {done.bytes_freed} bytes: {done.messages} messages in {done.files} files")
        for line in done.left:
            print(one_line(f"not purged: {line}"))
        return 1 if done.left else 0

    try:
        return trio.run(run)
    finally:
        meter.clear()
