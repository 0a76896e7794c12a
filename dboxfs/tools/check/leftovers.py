"""Files that are no longer needed, and files that show that an operation was not finished."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.store.location import Location
from dboxfs.tools.check.broken import BROKEN
from dboxfs.tools.check.findings import Finding, Severity

TEMPORARY = ".temp."
TEMPORARY_AGE = 36 * 3600
LOCK_AGE = 180
TRASH = "..DOVECOT-TrasH"


async def leftover_findings(fs: FileSystem, location: Location, mailboxes: Iterable[str]) -> list[Finding]:
    """Look into every directory of the store once."""
    directories: dict[str, str | None] = dict.fromkeys(
        (location.root, location.control_dir, location.storage, location.map_dir)
    )
    for name in mailboxes:
        directories[location.mailbox_path(name)] = name
        directories[location.index_path(name)] = name
        alt = location.alt_mailbox_path(name)
        if alt is not None:
            directories[alt] = name
    if location.alt_storage is not None:
        directories[location.alt_storage] = None
    findings: list[Finding] = []
    for directory, mailbox in directories.items():
        findings += await _directory(fs, location, directory, mailbox)
    return findings


async def _directory(
    fs: FileSystem, location: Location, directory: str, mailbox: str | None
) -> list[Finding]:
    try:
        entries = await fs.listdir(directory)
    except OSError:
        return []  # other parts of the check report directories that can't be read
    paths = [os.path.join(directory, entry.name) for entry in entries if _is_suspect(entry.name)]
    answers = await fs.peek([Peek(path, ()) for path in paths])
    now = time.time()
    findings = []
    for path, answer in zip(paths, answers, strict=True):
        age = now - answer.stat.st_mtime if isinstance(answer, PeekResult) else 0.0
        found = _judge(path, age)
        if found is not None and not isinstance(answer, FileNotFoundError):
            severity, code, what, todo = found
            if mailbox is not None:
                what = f"{location.display_name(mailbox)}: {what}"
            findings.append(Finding(severity, code, path, what, todo, mailbox=mailbox))
    return findings


def _is_suspect(name: str) -> bool:
    return not BROKEN.fullmatch(name) and (
        name.startswith((TEMPORARY, ".dboxfs-"))
        or name in (TRASH, "dboxfs.purge")
        or name.endswith((".broken", ".newlock", ".index.tmp"))
    )


def _judge(path: str, age: float) -> tuple[Severity, str, str, str] | None:
    name = os.path.basename(path)
    if name.startswith(TEMPORARY):
        if age < TEMPORARY_AGE:
            todo = "nothing: it is cleaned away when it is 36 hours old"
            return Severity.NOTE, "temporary", "a temporary file: a process is saving, or died", todo
        what = f"a temporary file of {int(age / 3600)} hours ago: a save that died"
        todo = "it was not acknowledged: a writable dboxfs mount, or Dovecot, removes it"
        return Severity.WARNING, "temporary", what, todo
    if name.endswith(".broken"):
        what = "the copy of a damaged file that was repaired"
        return Severity.NOTE, "broken-copy", what, "keep it if anything is missing"
    if name == TRASH:
        what = "a deleted mailbox whose files are still there"
        return Severity.NOTE, "trash", what, "nothing: Dovecot removes it with the next deletion"
    if name == "dboxfs.purge":
        return Severity.WARNING, "purge-died", "a purge was interrupted", "dboxfs purge ends it"
    if name.startswith(".dboxfs-"):
        what = "this store was never finished: a conversion into it was interrupted"
        return Severity.ERROR, "unfinished", what, "give the same command again, or throw the directory away"
    if age < LOCK_AGE:
        return None
    todo = "see that no Dovecot, doveadm or dboxfs is at work on the store, then remove it"
    return Severity.WARNING, "stale-lock", f"a lock file of {int(age)} seconds ago", todo
