"""``convert``: copies a store into another format.

Progress goes to stderr, if that is a terminal; the result to stdout.  A message or mailbox that could not be
carried over is a line on stderr, and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from shlex import quote

import trio

from dboxfs.cli.crypt_keys import add_keys, with_given_keys
from dboxfs.cli.each_user import EachUser, add_each_user, for_each_user
from dboxfs.cli.help_texts import STATUS_HELP, STORE_HELP
from dboxfs.cli.logs import log_to_stderr, one_line, tell
from dboxfs.cli.object_store import access_of
from dboxfs.cli.owned import add_root_rights, more_as_root, store_to_read
from dboxfs.cli.paths import overlap
from dboxfs.cli.progress import Meter
from dboxfs.cli.status import UsageError, new_root
from dboxfs.cli.stores import add_at, add_store, choose_store, compress_method
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.mail_settings import for_dovecot
from dboxfs.store.user_variables import StoreUser, expand
from dboxfs.store.write import Neighbour, WriteOptions
from dboxfs.tools.convert import Converted, Converter, ConvertProgress
from dboxfs.util.uid_ranges import uid_ranges

DESCRIPTION = """\
Make a copy of the store SRC in the directory DST (new, or empty), in another format:
sdbox or mdbox, dbox version 2 (Dovecot's) or 3. Mailboxes, uids, guids, flags, keywords,
dates, POP3 uidls and subscriptions stay what they are. SRC is only read; nothing may
write it meanwhile. Interrupted, the same command goes on where it was; DST becomes a
store when everything is in it.

"""


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs convert``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION + STORE_HELP.replace("STORE", "SRC", 1)
    parser.epilog = STATUS_HELP
    parser.set_defaults(run=convert)
    add_store(parser, by_option=by_option, metavar="SRC", users=True)
    add_at(parser)
    add_each_user(parser)
    parser.add_argument("target", metavar="DST", type=new_root)
    parser.add_argument("--format", choices=("sdbox", "mdbox"), help="of DST; left out: that of SRC")
    parser.add_argument(
        "--dbox-version", type=int, choices=(2, 3), default=2,
        help="of the messages in DST (2); Dovecot reads only 2",
    )  # fmt: skip
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read everything again and compare it before DST becomes a store",
    )
    parser.add_argument(
        "--force", action="store_true", help="convert what is shown, though SRC seems to hide mail"
    )
    parser.add_argument(
        "--compress", metavar="METHOD", type=compress_method,
        help="store plain messages compressed: zstd[:LEVEL], lz4, gz[:LEVEL], bz2[:LEVEL] (dbox version 2)",
    )  # fmt: skip
    parser.add_argument("--attachments", metavar="DIR", help="Dovecot's mail_attachment_dir, if SRC has one")
    add_root_rights(parser, "SRC")
    add_keys(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def check_target(target: str) -> None:
    """
    :raises UsageError: several users would get the same directory.
    """
    places = {expand(target, StoreUser(name), version=(2, 3)) for name in ("ann@a.example", "bob@a.example")}
    if len(places) == 1:
        raise UsageError(f"{target}: with --users DST needs %u, or %n and %d, for a store of each user")


def _make_target(arguments: argparse.Namespace, name: str, source: Location) -> None:
    """Set a user's DST in *arguments*; as root, make it for the owner of the old store."""
    root = os.path.abspath(expand(os.path.expanduser(arguments.target), StoreUser(name), version=(2, 3)))
    arguments.target = root
    if os.geteuid() == 0 and not os.path.lexists(root):
        owner = os.stat(source.root)
        os.makedirs(os.path.dirname(root), mode=0o755, exist_ok=True)
        os.mkdir(root, 0o700)
        os.chown(root, owner.st_uid, owner.st_gid)


def convert(arguments: argparse.Namespace) -> int:
    """``dboxfs convert SRC DST [--format F] [--dbox-version N] [--verify] [--force]``."""
    log_to_stderr()
    if arguments.compress is not None and arguments.dbox_version == 3:
        raise UsageError("--compress: messages of dbox version 3 are not compressed; leave out one of both")
    if arguments.users is not None:
        check_target(arguments.target)
        return for_each_user(arguments, EachUser("converted", convert, prepare=_make_target))
    location = choose_store(arguments, archives=True).location
    if arguments.attachments is not None:
        location = replace(location, attachments=os.path.abspath(os.path.expanduser(arguments.attachments)))
    location = with_given_keys(location, arguments)
    root = os.path.abspath(os.path.expanduser(arguments.target))
    if (part := overlap(location, root)) is not None:
        raise UsageError(f"{root}: DST and SRC must not lie in each other ({part} belongs to SRC)")
    kind = location.kind if arguments.format is None else Kind(arguments.format)
    meter = Meter(quiet=arguments.quiet)

    def show(progress: ConvertProgress) -> None:
        doing = "compared" if progress.verifying else "converted"
        meter.show(doing, progress.messages, progress.of, progress.bytes)

    async def run() -> Converted:
        async with (
            FileSystem(ThreadsDriver()) as fs,
            store_to_read(
                fs, location, arguments.at, access_of(arguments), root_rights=arguments.root_rights
            ) as store,
        ):
            options = WriteOptions(
                neighbour=Neighbour.ALONE,
                dbox_version=arguments.dbox_version,
                compress=arguments.compress,
            )
            converter = Converter(
                fs, store, root, kind, verify=arguments.verify, force=arguments.force,
                options=options, report=show,
            )  # fmt: skip
            return await converter.run()

    try:
        done = trio.run(run)
    finally:
        meter.clear()
    for line in (*done.hidden, *done.told, *done.failed):
        tell(line)
    if done.finished:
        print(f"{root}: finished by an earlier run, nothing was left to do")
    print(f"{root}: {done.messages} messages in {done.mailboxes} mailboxes, {meter.rate(done.bytes)}")
    if done.verified is not None and done.hidden:
        print(f"not verified: {done.verified} messages were compared, but mail may be hidden (see above)")
    elif done.verified is not None:
        print(f"verified: {done.verified} messages are what they are in {location.root}")
    if arguments.dbox_version == 2:
        for line in for_dovecot(location.same_names(kind, root)):
            print(one_line(line))
    for mailbox, uids in done.encrypted.items():
        text = f"{mailbox}: {len(uids)} messages stay encrypted (mail_crypt), Dovecot needs their keys: uid "
        print(one_line(text + uid_ranges(uids)))
    if done.told:
        print(f"{len(done.told)} are not as they should be in {location.root}, and were kept (see above)")
    if done.failed:
        print(
            f"{len(done.failed)} could not be carried over (see above); "
            f"dboxfs rescue {quote(location.root)} DST may find more of them{more_as_root(arguments)}"
        )
    return 1 if done.failed or done.told or done.hidden else 0
