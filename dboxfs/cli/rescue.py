"""``rescue``: makes a new store from the readable rest of a damaged one.

Each loss, guess or unknown fact goes to stdout as it is found, one line each; with ``--json`` each is one
JSON object a line, and the last line is the summary.  Progress goes to stderr if that is a terminal.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections import Counter

import trio
from msgspec.structs import asdict, replace

from dboxfs.cli.crypt_keys import add_keys, with_given_keys
from dboxfs.cli.help_texts import STORE_HELP
from dboxfs.cli.logs import log_to_stderr, one_line, tell
from dboxfs.cli.object_store import access_of
from dboxfs.cli.owned import add_root_rights, files_of, more_as_root
from dboxfs.cli.paths import overlap
from dboxfs.cli.progress import Meter
from dboxfs.cli.status import first_error, message, new_root
from dboxfs.cli.stores import add_at, add_store, choose_store, compress_method
from dboxfs.errors import DboxfsError
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location
from dboxfs.store.mail_settings import for_dovecot
from dboxfs.tools.rescue import (
    DAMAGED_MAILBOX,
    LOSSES,
    Event,
    Progress,
    Rescued,
    RescueOptions,
    find_source,
    rescue_store,
)

DESCRIPTION = f"""\
Make a new store in the directory DST (new, or empty) of all messages whose files can be
read in STORE, even if its indexes or parts of the files are gone. STORE is only read; it
may be a directory with nothing but m.N or u.N files. Files that Dovecot has put aside
(m.N.broken) are read, too. DST gets the owner and the modes of STORE.
Indexes are used for what they still know: uids, flags, keywords, mailboxes, numbers.
What can't be known is told: a message that no index knows goes to the mailbox that it
names itself (mdbox), or INBOX. Incomplete messages are listed, and with --partial put
into the mailbox {DAMAGED_MAILBOX}.

"""

STATUS = "exit status: 0 all is there, 1 something was lost or left unknown, 2 it could not be done"

EXIT_NOT_DONE = 2
_TOLD_OF_EACH = 10


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs rescue``."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION + STORE_HELP
    parser.epilog = STATUS
    parser.set_defaults(run=rescue)
    add_store(parser, by_option=by_option)
    add_at(parser)
    parser.add_argument("target", metavar="DST", type=new_root)
    parser.add_argument("--format", choices=("sdbox", "mdbox"), help="of DST; left out: that of STORE")
    parser.add_argument(
        "--dbox-version", type=int, choices=(2, 3), help="of the messages in DST; left out: that of STORE"
    )
    parser.add_argument(
        "--partial", action="store_true", help="also save what there is of incomplete messages"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line; the last is the summary")
    parser.add_argument(
        "--compress", metavar="METHOD", type=compress_method,
        help="store messages compressed: zstd[:LEVEL], lz4, gz[:LEVEL], bz2[:LEVEL] (dbox version 2)",
    )  # fmt: skip
    parser.add_argument("--attachments", metavar="DIR", help="the store's mail_attachment_dir, if it has one")
    add_root_rights(parser)
    add_keys(parser)


def rescue(arguments: argparse.Namespace) -> int:
    """``dboxfs rescue STORE DST [--format F] [--partial] [--json] [--attachments DIR]``."""
    log_to_stderr()
    meter = Meter()
    try:
        location = find_source(
            lambda: choose_store(arguments, damaged=True, archives=True).location, arguments.store
        )
        if arguments.attachments is not None:
            where = os.path.abspath(os.path.expanduser(arguments.attachments))
            location = dataclasses.replace(location, attachments=where)
        location = with_given_keys(location, arguments)
        root = os.path.abspath(os.path.expanduser(arguments.target))
        if (part := overlap(location, root)) is not None:
            text = f"{root}: DST and STORE must not lie in each other ({part} belongs to STORE)"
            tell(text)
            return EXIT_NOT_DONE
        kind = Kind(arguments.format) if arguments.format is not None else location.kind
        options = RescueOptions(kind, arguments.dbox_version, partial=arguments.partial)
        options = replace(options, writing=replace(options.writing, compress=arguments.compress))
        output = _Output(as_json=arguments.json, location=location, meter=meter)

        async def run() -> Rescued:
            async with (
                FileSystem(ThreadsDriver()) as fs,
                files_of(
                    fs,
                    location,
                    arguments.at,
                    access_of(arguments),
                    damaged=True,
                    root_rights=arguments.root_rights,
                ) as (files, place),
            ):
                return await rescue_store(
                    files, place, root, options, output.event, output.progress, target_fs=fs
                )

        done = trio.run(run)
    except (DboxfsError, OSError, BaseExceptionGroup) as exc:
        meter.clear()
        error = first_error(exc)
        said = message(error)
        if said is None or isinstance(error, BrokenPipeError):
            raise
        if isinstance(error, OSError):
            said += f"; {arguments.target} is incomplete: remove it before you try again"
        tell(said)
        return EXIT_NOT_DONE
    output.summary(root, kind, done)
    if not arguments.json and done.events["unreadable"] and (more := more_as_root(arguments)):
        print(f"{done.events['unreadable']} files or directories can't be read{more}")
    return 0 if done.complete else 1


class _Output:
    """Prints events, progress and the summary."""

    def __init__(self, *, as_json: bool, location: Location, meter: Meter) -> None:
        self._json = as_json
        self._location = location
        self._meter = meter
        self._told: Counter[str] = Counter()

    def event(self, event: Event) -> None:
        """Print one event.  Without ``--json`` only ten of each kind that is no loss are printed."""
        self._meter.clear()
        self._told[event.code] += 1
        if not self._json and event.code not in LOSSES and self._told[event.code] > _TOLD_OF_EACH:
            return
        mailbox = None if event.mailbox is None else self._location.display_name(event.mailbox)
        if self._json:
            found = {**asdict(event), "mailbox": mailbox, "guid": event.guid.hex() if event.guid else None}
            print(json.dumps({key: _text(value) for key, value in found.items()}))
            return
        who = "" if mailbox is None else mailbox if event.uid is None else f"{mailbox}/{event.uid}"
        where = event.path if event.offset is None else f"{event.path} at {event.offset}"
        text = ": ".join(part for part in (event.code, who, event.what) if part)
        print(one_line(f"{text} ({where})" if where else text))

    def progress(self, progress: Progress) -> None:
        """Show the progress."""
        doing = "read" if progress.reading else "saved"
        self._meter.show(doing, progress.messages, progress.of, progress.bytes)

    def summary(self, root: str, kind: Kind, done: Rescued) -> None:
        """Print the summary."""
        self._meter.clear()
        numbers = {key: value for key, value in asdict(done).items() if key != "events"}
        if self._json:
            summary = {**numbers, "seconds": round(self._meter.seconds, 3), "events": dict(done.events)}
            print(json.dumps({"summary": summary}))
            return
        for code, count in self._told.items():
            if code not in LOSSES and count > _TOLD_OF_EACH:
                print(f"{code}: {count - _TOLD_OF_EACH} more like that (--json lists all)")
        rate = self._meter.rate(done.bytes)
        places = f"{done.messages} messages and {done.copies} copies in {done.mailboxes} mailboxes"
        print(one_line(f"{root}: {places}, from {done.files} files ({rate})"))
        for count, what in (
            (done.damaged, f"incomplete messages are in {DAMAGED_MAILBOX}"),
            (done.unplaced, "messages were known to no index"),
            (done.expunged, "expunged messages that waited for a purge were left out"),
            (done.twins, "second copies of messages were left out"),
            (done.events["damaged"], "messages are damaged"),
            (done.events["lost"], "messages are lost"),
        ):
            if count:
                print(f"{count} {what}")
        if done.version == 2:
            for line in for_dovecot(self._location.same_names(kind, os.path.abspath(root))):
                print(one_line(line))


def _text(value: object) -> object:
    """*value* in valid Unicode for JSON: bytes of a name that are no UTF-8 become backslash escapes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
