"""``commit``: makes messages of the files that were put back into a mount with ``-o restore``, and reports.

``umount`` does the same first.  Both write to ``.dboxfs/commit``; the write returns when everything is
committed.  Meanwhile they read ``.dboxfs/restore.json`` to show the progress.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import threading
from typing import Any

from dboxfs.cli import logs
from dboxfs.cli.progress import Meter
from dboxfs.errors import MountError
from dboxfs.util import mounts

_MOST_NAMED = 3
_POLL = 0.2


def declare(parser: argparse.ArgumentParser, *, by_option: bool) -> None:
    """The command line of ``dboxfs commit``."""
    parser.description = (
        "Make messages of all files that were put back into MOUNTPOINT, mounted with -o restore."
    )
    parser.set_defaults(run=commit)
    parser.add_argument("mountpoint", metavar="MOUNTPOINT")


def commit(arguments: argparse.Namespace) -> int:
    """``dboxfs commit MOUNTPOINT``."""
    given = os.path.abspath(arguments.mountpoint)
    if mounts.mounted_on(given) is None and mounts.mounted_on(os.path.realpath(given)) is None:
        raise MountError(f"{given}: no dboxfs mount")
    report = commit_all(given)
    if report is None:
        raise MountError(
            f"{given}: not mounted with -o restore, so everything is committed when it is closed"
        )
    return tell(report)


def commit_all(point: str) -> dict[str, Any] | None:
    """Have a mount commit all staged files; returns restore.json, None: the mount has no ``-o restore``.

    :raises MountError: the commit could not be done.
    """
    before = _report(point)
    if before is None:
        return None
    failed: list[OSError] = []

    def ask() -> None:
        try:
            with open(os.path.join(point, ".dboxfs", "commit"), "wb", buffering=0) as file:
                file.write(b"commit\n")
        except OSError as exc:
            failed.append(exc)

    thread, meter = threading.Thread(target=ask), Meter()
    thread.start()
    while thread.is_alive():
        thread.join(_POLL)
        now = _report(point) or before
        meter.show("restored", now["messages"], now["messages"] + now["staged"], now["bytes"])
    meter.clear()
    report = _report(point) if not failed or failed[0].errno == errno.EIO else None
    if failed and not (report is not None and report["failed"]):
        raise MountError(f"{point}: could not be committed: {failed[0].strerror}")
    return report


def tell(report: dict[str, Any]) -> int:
    """Print the result of a restore in one line; returns the exit status: 1 if a mailbox is not committed."""
    count, size, told = report["messages"], report["bytes"] / 1_000_000, report["not_kept"]
    line = (
        f"restored {count} messages, {size:.1f} MB, in {report['mailboxes']} mailboxes: "
        f"{report['kept_uid']} kept their uid, {report['kept_guid']} their guid"
    )
    more = len(told) + report["not_kept_and_not_told"]
    if more:
        first = "; ".join(f"{_where(one)}: {one['what']} ({one['why']})" for one in told[:_MOST_NAMED])
        line += f"; {more} not kept: {first}{' ...' if more > _MOST_NAMED else ''}"
    print(logs.one_line(line))
    for mailbox, why in report["failed"].items():
        logs.tell(f"{mailbox}: not committed: {why}")
    return 1 if report["failed"] else 0


def _where(one: dict[str, str]) -> str:
    return f"{one['mailbox']}/{one['name']}" if one["name"] else one["mailbox"]


def _report(point: str) -> dict[str, Any] | None:
    try:
        with open(os.path.join(point, ".dboxfs", "restore.json"), "rb") as file:
            found: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise MountError(f"{point}: .dboxfs/restore.json can't be read: {exc}") from None
    return found
