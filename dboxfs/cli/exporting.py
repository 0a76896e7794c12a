"""``export``: writes a store as Maildir, mbox or plain files.

Progress goes to stderr; the result to stdout.  A message or mailbox that was left out is a line on stderr,
and makes the exit status 1.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

import trio

from dboxfs.cli.crypt_keys import add_keys, with_given_keys
from dboxfs.cli.help_texts import STATUS_HELP, STORE_HELP
from dboxfs.cli.logs import log_to_stderr, one_line, tell
from dboxfs.cli.object_store import access_of
from dboxfs.cli.owned import add_root_rights, more_as_root, store_to_read
from dboxfs.cli.paths import overlap
from dboxfs.cli.progress import Meter
from dboxfs.cli.status import UsageError, new_root
from dboxfs.cli.stores import add_at, add_store, choose_store
from dboxfs.errors import MailHidden
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Store
from dboxfs.store.hidden import hidden_in, summary
from dboxfs.store.names.read import NameReader
from dboxfs.tools.exporting import (
    EmlFormat,
    Exported,
    Exporter,
    ExportProgress,
    Format,
    MaildirFormat,
    MboxFormat,
    NoPlace,
    needs_directories,
)

DESCRIPTION = """\
Write all mail of STORE into the directory DIR (new, or empty), for other programs:
  maildir  Maildir++ as Dovecot has it: uids, guids, flags, keywords, dates, UIDVALIDITY,
           guids of mailboxes, subscriptions
  mbox     a file for each mailbox: uids, flags, keywords, dates, UIDVALIDITY, subscriptions
  eml      a file for each message, as a mount shows them: dates; with --xattrs everything
SEMANTICS.md has a table of what each keeps; what a format could not hold is told. STORE is
only read. DIR shows nothing before all is written; interrupted, the same command with
--resume goes on. dboxfs import brings each of them back.

"""

_MOST_NOTES = 20


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs export``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION + STORE_HELP
    parser.epilog = STATUS_HELP
    parser.set_defaults(run=export)
    add_store(parser, by_option=by_option)
    add_at(parser)
    parser.add_argument("target", metavar="DIR", type=new_root)
    formats = ("maildir", "mbox", "eml")
    parser.add_argument("--format", choices=formats, required=True, help="of what is written to DIR")
    parser.add_argument(
        "--layout", choices=("maildir++", "fs"), default="maildir++",
        help="of a maildir: .Work.Customers (default), or directories in each other (Dovecot: LAYOUT=fs)",
    )  # fmt: skip
    parser.add_argument(
        "--xattrs", action="store_true", help="of eml: all that a mount shows as user.dbox.* attributes"
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted export")
    parser.add_argument(
        "--force", action="store_true", help="export what is shown, though STORE seems to hide mail"
    )
    parser.add_argument(
        "--attachments", metavar="DIR", help="Dovecot's mail_attachment_dir, if STORE has one"
    )
    add_root_rights(parser)
    add_keys(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress")


def export(arguments: argparse.Namespace) -> int:
    """``dboxfs export STORE DIR --format maildir|mbox|eml [--xattrs] [--layout L] [--resume]``."""
    log_to_stderr()
    location = choose_store(arguments, archives=True).location
    if arguments.attachments is not None:
        location = replace(location, attachments=os.path.abspath(os.path.expanduser(arguments.attachments)))
    location = with_given_keys(location, arguments)
    root = os.path.abspath(os.path.expanduser(arguments.target))
    if (part := overlap(location, root)) is not None:
        raise UsageError(f"{root}: DIR and STORE must not lie in each other ({part} belongs to STORE)")
    meter = Meter(quiet=arguments.quiet)

    def report(progress: ExportProgress) -> None:
        meter.show("exported", progress.messages, progress.of, progress.bytes)

    async def run() -> tuple[Exported, Format]:
        async with (
            FileSystem(ThreadsDriver()) as fs,
            store_to_read(
                fs, location, arguments.at, access_of(arguments), root_rights=arguments.root_rights
            ) as store,
        ):
            hidden = await hidden_in(store)
            if hidden and not arguments.force:
                raise MailHidden(f"{summary(hidden)}; --force exports what is shown")
            form, name = await _form(arguments, store)
            exporter = Exporter(fs, store, root, form, name, resume=arguments.resume, report=report)
            return await exporter.run(), form

    try:
        done, form = trio.run(run)
    except* NoPlace as group:
        raise UsageError(str(group.exceptions[0])) from None
    finally:
        meter.clear()
    return _tell(done, form, root, meter, more_as_root(arguments))


async def _form(arguments: argparse.Namespace, store: Store) -> tuple[Format, str]:
    names = store.location.names
    if arguments.xattrs and arguments.format != "eml":
        raise UsageError(
            f"--xattrs: only for --format eml; leave it out: {arguments.format} has flags and dates anyway"
        )
    if arguments.format == "maildir":
        return MaildirFormat(plain=arguments.layout == "fs", coding=names), f"maildir {arguments.layout}"
    if arguments.format == "mbox":
        nested = needs_directories(store)
        return MboxFormat(nested=nested, coding=names), f"mbox nested={nested}"
    reader = NameReader(store)
    await reader.load()
    return EmlFormat(
        xattrs=arguments.xattrs, names=reader.names, coding=names
    ), f"eml xattrs={arguments.xattrs}"


def _tell(done: Exported, form: Format, root: str, meter: Meter, more: str) -> int:
    for line in done.failed:
        tell(line)
    for line in done.told[:_MOST_NOTES]:
        print(one_line(f"note: {line}"))
    if len(done.told) > _MOST_NOTES:
        print(f"note: {len(done.told) - _MOST_NOTES} more notes of this kind")
    if done.finished:
        print(one_line(f"{root}: finished by an earlier run, nothing was left to do"))
        return 0
    before = f", {done.resumed} mailboxes were there already" if done.resumed else ""
    what = f"{done.messages} messages in {done.mailboxes} mailboxes, {meter.rate(done.bytes)}{before}"
    print(one_line(f"{root}: {what}"))
    for line in form.advice(root):
        print(one_line(line))
    if done.failed:
        print(f"{len(done.failed)} were left out (see above); dboxfs rescue may find more of them{more}")
    return 1 if done.failed else 0
