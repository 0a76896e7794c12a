"""``archive``: a store on an object store, in generations; and ``archive prune``.

Progress goes to stderr, if that is a terminal; what came of it, and what it cost, to stdout.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

import trio

from dboxfs.cli.crypt_keys import add_keys, with_given_keys
from dboxfs.cli.dates import date_or_days
from dboxfs.cli.each_user import EachUser, add_each_user, for_each_user
from dboxfs.cli.help_texts import STATUS_HELP, STORE_HELP
from dboxfs.cli.logs import log_to_stderr, one_line, tell
from dboxfs.cli.object_store import access_of, add_access
from dboxfs.cli.owned import add_root_rights, more_as_root, store_to_read
from dboxfs.cli.paths import default_cache_dir
from dboxfs.cli.progress import Meter
from dboxfs.cli.status import UsageError
from dboxfs.cli.stores import add_store, check_url, choose_store
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.fsapi.drivers.object_client import Cost, connect, refuse_nowhere
from dboxfs.store import Location
from dboxfs.store.user_variables import StoreUser, expand
from dboxfs.tools.archive import Archived, ArchiveOptions, Archiver, Repository
from dboxfs.tools.archive.generation import GENERATIONS
from dboxfs.tools.archive.prune import prune

DESCRIPTION = """\
Copy what is new in STORE to the archive at URL (s3://bucket/prefix, gs://, az://,
file:///directory), and leave a generation: the whole store as it is now. STORE is only
read, a Dovecot may go on working. dboxfs mount, ls, info, check, convert, import, export
and rescue take URL as a store that can't be written. Interrupted, the same command goes
on where it was.

dboxfs archive prune URL --keep-daily N --keep-monthly N removes generations, and what
none of the others needs.

Credentials are found as always: AWS_ACCESS_KEY_ID, AWS_PROFILE and ~/.aws, GOOGLE_*,
AZURE_*, the instance's role; AWS_ENDPOINT_URL names another server than Amazon's.

"""


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs archive``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION + STORE_HELP
    parser.epilog = STATUS_HELP
    parser.set_defaults(run=archive)
    add_store(parser, by_option=by_option, users=True)
    add_each_user(parser)
    parser.add_argument("url", metavar="URL", help="of the archive")
    parser.add_argument(
        "--before", metavar="DATE", type=date_or_days,
        help="only messages received before that day (2026-11-01, local time) or time "
        "(2026-11-01T08:00:00Z), or more than so many days ago (365d)",
    )  # fmt: skip
    parser.add_argument(
        "--mailbox", metavar="NAME", action="append",
        help="only this mailbox (may be repeated); the others stay as the newest generation has them",
    )  # fmt: skip
    parser.add_argument(
        "--keep-daily", metavar="N", type=_number, help="prune: one generation a day, of N days"
    )
    parser.add_argument("--keep-monthly", metavar="N", type=_number, help="prune: one a month, of N months")
    parser.add_argument("--break-lock", action="store_true", help="take the archive from a run that is gone")
    parser.add_argument(
        "--attachments", metavar="DIR", help="Dovecot's mail_attachment_dir, if STORE has one"
    )
    add_root_rights(parser)
    add_keys(parser)
    add_access(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return int(text)


def archive(arguments: argparse.Namespace) -> int:
    """``dboxfs archive STORE URL [--before DATE] [--mailbox NAME]``, ``dboxfs archive prune URL ...``."""
    log_to_stderr()
    check_url(arguments.url)
    if arguments.store == "prune":
        return _prune(arguments)
    if arguments.keep_daily is not None or arguments.keep_monthly is not None:
        raise UsageError("--keep-daily, --keep-monthly: belong to dboxfs archive prune URL")
    if arguments.users is not None:
        urls = {_of_user(arguments.url, name) for name in ("ann@a.example", "bob@a.example")}
        if len(urls) == 1:
            raise UsageError(
                f"{arguments.url}: with --users URL needs %u, or %n and %d: an archive for each user"
            )
        return for_each_user(arguments, EachUser("archived", archive, prepare=_take_url))
    location = choose_store(arguments).location
    if arguments.attachments is not None:
        location = replace(location, attachments=os.path.abspath(os.path.expanduser(arguments.attachments)))
    return _archive(arguments, with_given_keys(location, arguments))


def _of_user(url: str, name: str) -> str:
    return expand(url, StoreUser(name), version=(2, 3))


def _take_url(arguments: argparse.Namespace, name: str, location: Location) -> None:
    arguments.url = _of_user(arguments.url, name)


def _archive(arguments: argparse.Namespace, location: Location) -> int:
    meter = Meter(quiet=arguments.quiet)
    cost = Cost()

    def show(seen: int, of: int, size: int) -> None:
        meter.show("archived", seen, of, size)

    async def run() -> Archived:
        nonlocal cost
        objects = connect(arguments.url, access_of(arguments))
        cost = objects.cost
        async with (
            FileSystem(ThreadsDriver()) as fs,
            store_to_read(
                fs, location, cache_dir=default_cache_dir(), root_rights=arguments.root_rights
            ) as store,
        ):
            given = arguments.mailbox
            names = {store.display_name(folder): name for name, folder in store.folders.items()}
            if given is not None and (unknown := [name for name in given if name not in names]):
                raise UsageError(f"--mailbox {unknown[0]}: there is no such mailbox in {location.root}")
            options = ArchiveOptions(
                before=arguments.before,
                mailboxes=None if given is None else frozenset(names[name] for name in given),
                break_lock=arguments.break_lock,
            )
            return await Archiver(store, Repository(objects, arguments.url), options, show).run()

    try:
        done = trio.run(run)
    finally:
        meter.clear()
    for line in (*done.told, *done.failed):
        tell(line)
    assert done.generation is not None
    name = done.generation.key.removeprefix(GENERATIONS + "/")
    state = "is new" if done.new else "has all of it already"
    print(one_line(f"{arguments.url}: generation {name} {state}: {done.generation.messages} messages"))
    if done.resumed:
        print(f"{done.resumed} messages were stored by a run that was interrupted")
    print(f"stored {done.stored} messages, {meter.rate(done.bytes)}")
    print(f"cost: {cost}")
    if done.failed:
        print(f"{len(done.failed)} could not be archived (see above){more_as_root(arguments)}")
    return 1 if done.failed or done.told else 0


def _prune(arguments: argparse.Namespace) -> int:
    if arguments.keep_daily is None and arguments.keep_monthly is None:
        raise UsageError("archive prune: say what stays: --keep-daily N, --keep-monthly N")
    refuse_nowhere(arguments.url)
    repository = Repository(connect(arguments.url, access_of(arguments)), arguments.url)
    daily, monthly = arguments.keep_daily or 0, arguments.keep_monthly or 0
    done = prune(repository, daily, monthly, break_lock=arguments.break_lock)
    print(one_line(f"{arguments.url}: {done.generations} generations stay, {done.removed} were removed"))
    print(f"removed {done.objects} objects that none needs, {done.bytes} bytes")
    print(f"cost: {repository.objects.cost}")
    return 0
