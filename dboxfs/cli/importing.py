"""``import``: copies mail of another format into a store.

Progress goes to stderr; the result to stdout.  A message or mailbox that was left out is a line on stderr,
and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio
from msgspec.structs import replace

from dboxfs.cli import change
from dboxfs.cli.begin_writing import begin_writing
from dboxfs.cli.crypt_keys import add_keys, sealing_as, with_given_keys
from dboxfs.cli.help_texts import STATUS_HELP, STORE_HELP
from dboxfs.cli.late import load_late
from dboxfs.cli.logs import log_to_stderr, one_line, tell
from dboxfs.cli.object_store import access_of
from dboxfs.cli.of_dovecot import OfDovecot
from dboxfs.cli.owned import add_root_rights, store_to_write
from dboxfs.cli.paths import overlap
from dboxfs.cli.progress import Meter
from dboxfs.cli.status import UsageError, new_root
from dboxfs.cli.stores import NOT_AN_ARCHIVE, add_at, add_store, check_url, choose_store, compress_method
from dboxfs.errors import NoSuchStore, StoreBusy
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.object_client import is_url
from dboxfs.store import Kind, Location, open_store, parse_location
from dboxfs.store.mail_settings import for_dovecot
from dboxfs.store.owner_rights import owned_target, owner_to_read_as
from dboxfs.store.write import Eol, Neighbour, StoreWriter, WriteOptions, with_version
from dboxfs.store.write.new_store import make_root
from dboxfs.tools.archive.view import ArchiveView
from dboxfs.tools.importing import (
    KINDS,
    Imported,
    Importer,
    ImportProgress,
    find_source,
    is_begun,
    make_store,
)
from dboxfs.tools.importing.source import MailSource, reading_as, with_rights
from dboxfs.tools.importing.store import store_source

DESCRIPTION = """\
Bring mail into STORE, which is there already or is made (--format). SOURCE is
  a tree that was copied out of a mount, with its user.dbox.* attributes or without,
  a Maildir, Maildir++, or Maildirs in plain directories (Dovecot's, Courier's, others'),
  an mbox, or a directory of mboxes (Dovecot's, Thunderbird's, others'),
  an archive on an object store (a URL, see dboxfs archive).
Kept is all that SOURCE knows: uids, guids, flags, keywords, dates, UIDVALIDITY, guids of
mailboxes, subscriptions, names of files; SEMANTICS.md has a table. In a mailbox that has
mail already uids that are taken become new ones. A message that STORE has already (same
guid, same text) is not saved again: so an import that was interrupted goes on with the
same command, and one that is repeated changes nothing. SOURCE is only read.

"""

_MOST_NOTES = 20


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs import``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION + STORE_HELP
    parser.epilog = STATUS_HELP
    parser.set_defaults(run=import_mail)
    parser.add_argument("source", metavar="SOURCE")
    add_store(parser, by_option=by_option)
    add_at(parser)
    parser.add_argument("--from", dest="kind", choices=KINDS, help="what SOURCE is; left out: found out")
    parser.add_argument(
        "--mailbox", metavar="NAME",
        help="only this mailbox of SOURCE (Work/Customers); of a single mbox or Maildir: where its mail goes "
        "(INBOX)",
    )  # fmt: skip
    parser.add_argument("--format", choices=("sdbox", "mdbox"), help="make STORE, if it is not there yet")
    parser.add_argument(
        "--dbox-version", type=int, choices=(2, 3), help="of a new STORE: 2, Dovecot's (default), or 3"
    )
    parser.add_argument(
        "--owner", metavar="USER[:GROUP]", type=change.owner, help="of a new STORE, as in dboxfs init"
    )
    parser.add_argument(
        "--alone", action="store_true", help="no Dovecot uses STORE meanwhile: quicker, and tidier"
    )
    parser.add_argument(
        "--eol", choices=[eol.value for eol in Eol], default=Eol.KEEP.value,
        help="line ends: keep (default), or lf, as Dovecot saves them",
    )  # fmt: skip
    parser.add_argument(
        "--compress", metavar="METHOD", type=compress_method, default=False,
        help="store new messages compressed: zstd[:LEVEL], lz4, gz[:LEVEL], bz2[:LEVEL], none (default; with "
        "--user: as Dovecot does)",
    )  # fmt: skip
    parser.add_argument(
        "--encrypt", metavar="FILE",
        help="encrypt new messages for the public key or the keys of folders in FILE; none (default; with "
        "--user: as Dovecot does)",
    )  # fmt: skip
    add_keys(parser)
    add_root_rights(parser, "SOURCE")
    parser.add_argument("--verify", action="store_true", help="read everything again and compare it")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def import_mail(arguments: argparse.Namespace) -> int:
    """``dboxfs import SOURCE STORE [--from KIND] [--mailbox NAME] [--format F] [--verify] ...``."""
    log_to_stderr()
    path = arguments.source
    if is_url(path):
        check_url(path)
        return _import(arguments, path, None, ArchiveView(path, arguments.at, access_of(arguments)))
    if arguments.at is not None:
        raise UsageError(NOT_AN_ARCHIVE)
    path = os.path.abspath(os.path.expanduser(path))
    load_late()
    with reading_as(None if arguments.root_rights else owner_to_read_as(path, tell)):
        return _import(arguments, path, with_rights(find_source, path, arguments.kind), None)


def _import(
    arguments: argparse.Namespace, path: str, source: MailSource | None, view: ArchiveView | None
) -> int:
    meter = Meter(quiet=arguments.quiet)
    options = WriteOptions(eol=Eol(arguments.eol))

    def report(progress: ImportProgress) -> None:
        doing = "compared" if progress.verifying else "looked at"
        meter.show(doing, progress.messages, progress.of or 0, progress.bytes)

    async def run() -> tuple[Imported, Location, bool]:
        async with FileSystem(ThreadsDriver()) as fs, _mail_source(source, view) as mail:
            location, new, dovecot = await _target(fs, arguments, options)
            location = with_given_keys(location, arguments)
            if source is not None and (part := overlap(location, path)) is not None:
                raise UsageError(
                    f"{path}: SOURCE and STORE must not lie in each other ({part} belongs to STORE)"
                )
            with _held(location.root):
                async with store_to_write(fs, location, new=new) as store:
                    neighbour = Neighbour.ALONE if new or arguments.alone else Neighbour.DOVECOT
                    coding = _coded(arguments, dovecot, replace(options, neighbour=neighbour), location)
                    writing = await with_version(store, coding)
                    writer = StoreWriter(store.fs, location, store.owner, writing)
                    await begin_writing(writer, store, writing)
                    importer = Importer(
                        store, writer, mail, only=arguments.mailbox, verify=arguments.verify, report=report
                    )
                    return await importer.run(), location, new

    try:
        done, location, new = trio.run(run)
    finally:
        meter.clear()
    if arguments.mailbox is not None and not done.mailboxes and not done.failed:
        what = "an archive" if source is None else f"a {source.kind}"
        raise UsageError(f"{path}: there is no mailbox {arguments.mailbox} (it is {what})")
    if view is not None:
        print(f"cost: {view.cost}")
    return _tell(done, location, meter, new=new)


def _tell(done: Imported, location: Location, meter: Meter, *, new: bool) -> int:
    for line in (*done.told, *done.failed):
        tell(line)
    for line in done.notes[:_MOST_NOTES]:
        print(one_line(f"note: {line}"))
    if len(done.notes) > _MOST_NOTES:
        print(f"note: {len(done.notes) - _MOST_NOTES} more notes of this kind")
    print(
        one_line(
            f"{location.root}: {done.messages} messages imported into {done.mailboxes} mailboxes, "
            f"{meter.rate(done.bytes)}"
        )
    )
    for count, what in (
        (done.there, "messages were there already, with the same text, and were not saved again"),
        (done.copies, "messages are copies of messages in the store, and take no more space"),
        (done.renumbered, "messages got a new uid: another message of the mailbox has theirs"),
        (done.reguided, "messages got a new guid: another message of the store has theirs"),
    ):
        if count:
            print(f"{count} {what}")
    if done.verified is not None:
        print(f"compared with the source: {done.verified} messages, {len(done.told)} differences (see above)")
    if new:
        for line in for_dovecot(location):
            print(one_line(line))
    if done.failed:
        print(f"{len(done.failed)} were left out (see above); the same command tries them again")
    return 1 if done.failed or done.told else 0


async def _target(
    fs: FileSystem, arguments: argparse.Namespace, options: WriteOptions
) -> tuple[Location, bool, OfDovecot]:
    """The store, which is made if ``--format`` asks for it; whether it was made; what Dovecot does for its
    user.
    """
    if arguments.format is None:
        try:
            chosen = choose_store(arguments)
            return chosen.location, False, chosen.of_dovecot
        except NoSuchStore as exc:
            if arguments.store is None:
                raise
            raise NoSuchStore(f"{exc}; for a new store: --format mdbox, or sdbox") from None
    if arguments.store is None:
        raise UsageError("--format makes a new store: name its directory")
    try:
        root = os.path.abspath(os.path.expanduser(new_root(arguments.store)))
    except argparse.ArgumentTypeError as exc:
        raise UsageError(f"STORE: {exc}") from None
    location = Location(Kind(arguments.format), root)
    if not await is_begun(fs, root):
        found = parse_location(root)
        if found.kind is not location.kind:
            raise NoSuchStore(f"{root}: this is an {found.kind.value} store; leave out --format")
        return found, False, OfDovecot(None)
    version = arguments.dbox_version or options.dbox_version
    permissions = change.new_root_permissions(root, arguments.owner)
    await make_root(fs, root, permissions)
    async with owned_target(fs, root) as files:
        await make_store(files, location, permissions, replace(options, dbox_version=version))
    return location, True, OfDovecot(None)


def _coded(
    arguments: argparse.Namespace, dovecot: OfDovecot, options: WriteOptions, location: Location
) -> WriteOptions:
    """*options* with the compression and encryption of new messages: as was said, else as Dovecot does it.

    :raises UsageError: STORE's messages can't be compared with those of SOURCE.
    """
    compress = dovecot.compress if arguments.compress is False else arguments.compress
    encrypt = sealing_as(arguments.encrypt, dovecot)
    if encrypt is not None and location.keys is None:
        raise UsageError(
            "messages of STORE are encrypted: give --crypt-key FILE, to see which are there already, or "
            "--encrypt none, to save them as they are"
        )
    return replace(options, compress=compress, encrypt=encrypt, apart=dovecot.cutting)


@asynccontextmanager
async def _mail_source(source: MailSource | None, view: ArchiveView | None) -> AsyncIterator[MailSource]:
    """*source*, or what *view* shows where that is None."""
    if source is not None:
        yield source
        return
    assert view is not None
    async with (
        FileSystem(view.driver()) as files,
        open_store(files, view.location(), follow=False, cache_dir=view.cache_dir) as store,
    ):
        yield await store_source(store)


@contextmanager
def _held(root: str) -> Iterator[None]:
    """Lock *root*: of two imports at the same time each might save the same message."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreBusy(f"{root}: another dboxfs import is writing it; wait until it has ended") from None
    finally:
        os.close(fd)
