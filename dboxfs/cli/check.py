"""``check``: compare everything in a store with everything else.

Findings go to stdout as they are found: one line each, and one line with the advice.  With ``--json`` each is
one JSON object a line, and the last line is the summary.  Progress goes to stderr if that is a terminal.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections import Counter

import trio
from msgspec.structs import replace

from dboxfs.cli.each_user import EachUser, add_each_user, for_each_user
from dboxfs.cli.help_texts import STORE_HELP
from dboxfs.cli.logs import log_to_stderr, one_line, tell
from dboxfs.cli.object_store import access_of
from dboxfs.cli.owned import add_root_rights, files_of
from dboxfs.cli.progress import Meter
from dboxfs.cli.status import UsageError, first_error, message
from dboxfs.cli.stores import NOT_AN_ARCHIVE, add_at, add_store, choose_store
from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store.location import Location
from dboxfs.tools.check import Checked, CheckOptions, Finding, Severity, check_store

DESCRIPTION = """\
Compare every index record, map record and message of STORE: structure, sizes, guids,
reference counts, leftovers. Nothing is written; a Dovecot may go on using the store.

"""

STATUS = "exit status: 0 nothing wrong (notes don't count), 1 something is, 2 the store could not be checked"

EXIT_NOT_CHECKED = 2
_MEGABYTE = 1_000_000


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs check``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION + STORE_HELP
    parser.epilog = STATUS
    parser.set_defaults(run=check)
    add_store(parser, by_option=by_option, users=True)
    add_at(parser)
    parser.add_argument("--quick", action="store_true", help="sizes and metadata only: don't read the texts")
    parser.add_argument("--json", action="store_true", help="one JSON object a line; the last is the summary")
    parser.add_argument(
        "--unused", action="store_true",
        help="no program writes STORE during the check: report each finding at once, without a second look",
    )  # fmt: skip
    parser.add_argument(
        "--attachments", metavar="DIR", help="Dovecot's mail_attachment_dir, if STORE has one"
    )
    add_root_rights(parser)
    add_each_user(parser)


def check(arguments: argparse.Namespace) -> int:
    """``dboxfs check STORE [--quick] [--json] [--unused] [--attachments DIR]``."""
    log_to_stderr()
    if arguments.users is not None:
        if arguments.at is not None:
            raise UsageError(NOT_AN_ARCHIVE)
        return for_each_user(
            arguments, EachUser("checked", check, tells_all=arguments.json, says_not_done=True)
        )
    meter = Meter()
    try:
        location = choose_store(arguments, damaged=True, archives=True).location
        if arguments.attachments is not None:
            where = os.path.abspath(os.path.expanduser(arguments.attachments))
            location = dataclasses.replace(location, attachments=where)
        options = CheckOptions(texts=not arguments.quick)
        if arguments.unused:
            options = replace(options, patience=())
        output = Output(as_json=arguments.json, location=location, meter=meter)

        async def run() -> Checked:
            async with (
                FileSystem(ThreadsDriver()) as fs,
                files_of(
                    fs, location, arguments.at, access_of(arguments), root_rights=arguments.root_rights
                ) as (files, place),
            ):
                return await check_store(files, place, output.finding, options, output.progress)

        done = trio.run(run)
    except (DboxfsError, OSError, BaseExceptionGroup) as exc:
        meter.clear()
        error = first_error(exc)
        text = message(error)
        if text is None or isinstance(error, BrokenPipeError):
            raise
        tell(text)
        return EXIT_NOT_CHECKED
    output.summary(location.root, done)
    return 1 if output.counts[Severity.ERROR] or output.counts[Severity.WARNING] else 0


class Output:
    """Prints findings, progress and the summary."""

    def __init__(self, *, as_json: bool, location: Location, meter: Meter) -> None:
        self.counts: Counter[Severity] = Counter()
        self._json = as_json
        self._location = location
        self._meter = meter
        self._advised: set[str] = set()

    def finding(self, finding: Finding) -> None:
        """Print one finding."""
        self.counts[finding.severity] += 1
        self._meter.clear()
        if self._json:
            print(json.dumps(self._as_dict(finding)))
            return
        where = finding.path if finding.offset is None else f"{finding.path} at {finding.offset}"
        print(one_line(f"{finding.severity.value}: {finding.what} ({where})"))
        if finding.todo:
            print("    as above" if finding.todo in self._advised else f"    {one_line(finding.todo)}")
            self._advised.add(finding.todo)

    def _as_dict(self, finding: Finding) -> dict[str, object]:
        mailbox = finding.mailbox
        found = {
            "severity": finding.severity.value,
            "code": finding.code,
            "what": finding.what,
            "todo": finding.todo,
            "path": finding.path,
            "offset": finding.offset,
            "mailbox": None if mailbox is None else self._location.display_name(mailbox),
            "uid": finding.uid,
            "map_uid": finding.map_uid,
            "count": finding.count,
        }
        return {key: _text(value) for key, value in found.items()}

    def progress(self, messages: int, of: int, size: int) -> None:
        """Show the progress."""
        self._meter.show("checked", messages, of, size)

    def summary(self, root: str, done: Checked) -> None:
        """Print the summary."""
        self._meter.clear()
        counts = {severity.value + "s": self.counts[severity] for severity in Severity}
        seconds = self._meter.seconds
        if self._json:
            numbers = {
                "messages": done.messages, "unowned": done.unowned, "mailboxes": done.mailboxes,
                "bytes": done.bytes,
            }  # fmt: skip
            print(json.dumps({"summary": {**numbers, **counts, "seconds": round(seconds, 3)}}))
            return
        size = f"{done.bytes / _MEGABYTE:.1f} MB read in {seconds:.1f} s"
        rest = f" and {done.unowned} records that no mailbox has (expunged, not purged)"
        more = rest if done.unowned else ""
        print(one_line(f"{root}: {done.messages} messages in {done.mailboxes} mailboxes{more}, {size}"))
        print(", ".join(f"{number} {name}" for name, number in counts.items()))


def _text(value: object) -> object:
    """*value* in valid Unicode for JSON: bytes of a name that are no UTF-8 become backslash escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
