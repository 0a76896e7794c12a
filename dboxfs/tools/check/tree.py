"""The directory tree of the mailboxes: directories that can't be read, and mailboxes that Dovecot hides."""

from __future__ import annotations

import os

from dboxfs.fsapi import FileSystem
from dboxfs.store.location import Location
from dboxfs.store.tree import TreeDirectory, is_stray
from dboxfs.tools.check.findings import Finding, Severity

INBOX = "INBOX"


async def tree_findings(fs: FileSystem, location: Location, tree: TreeDirectory) -> list[Finding]:
    """All problems of *tree*, which :func:`~dboxfs.store.tree.scan_tree` has made."""
    findings: list[Finding] = []
    for folder in tree.walk():
        shown = location.display_name(folder.name)
        if folder.error is not None:
            path = location.mailbox_path(folder.name) if folder.name else location.tree
            whose = f"{shown}: " if folder.name else ""
            what = f"{whose}the directory can't be read: {folder.error.strerror}"
            todo = "restore it from a backup, or check its owner and mode"
            findings.append(
                Finding(Severity.ERROR, "directory", path, what, todo, mailbox=folder.name or None)
            )
        findings += [_unlisted(location, what) for what in folder.damage]
        if folder.name and not folder.selectable and await is_stray(fs, location, folder.name):
            path = os.path.join(location.tree, folder.name)
            what = f"{shown}: its directory holds a mailbox that is not called {location.dirname}"
            todo = "give DIRNAME= (2.4: mailbox_directory_name) as Dovecot has it; else rename that directory"
            findings.append(Finding(Severity.ERROR, "stray", path, what, todo, mailbox=folder.name))
        first = folder.name.split("/")[0]
        if folder.selectable and first != INBOX and first.upper() == INBOX:
            findings.append(_hidden(location, folder, shown))
    if location.inbox is not None:
        findings += await _second_inbox(fs, location)
    if location.alt is not None:
        findings += await _no_alt(fs, location, location.alt)
    return findings


def _unlisted(location: Location, what: str) -> Finding:
    """An entry of the list index that leads to no mailbox (LAYOUT=index)."""
    path = location.list_index_path
    todo = "restore it from a backup; else dboxfs rescue finds the mailboxes by their own names"
    return Finding(Severity.ERROR, "list-index", path, what, todo)


def _hidden(location: Location, folder: TreeDirectory, shown: str) -> Finding:
    """A mailbox that is called INBOX in other letters, or lies below such a name: Dovecot doesn't list it."""
    first = folder.name.split("/")[0]
    what = f"{shown}: Dovecot reads the name {first} as INBOX, and so does not show this mailbox"
    todo = f"stop Dovecot, unmount the store, and rename the directory {first} to another name"
    path = os.path.join(location.tree, folder.name)
    return Finding(Severity.ERROR, "hidden", path, what, todo, mailbox=folder.name)


async def _no_alt(fs: FileSystem, location: Location, alt: str) -> list[Finding]:
    """An alternative storage that is not there, as when its file system is not mounted."""
    try:
        await fs.stat(alt)
    except OSError as exc:
        what = f"the alternative storage can't be reached: {exc.strerror}"
        todo = "if messages were moved there, mount it before anything else is done about missing files"
        return [Finding(Severity.NOTE, "no-alt", alt, what, todo)]
    return []


async def _second_inbox(fs: FileSystem, location: Location) -> list[Finding]:
    """An INBOX in the tree, though the location says that it lies elsewhere."""
    path = os.path.join(location.tree, INBOX, location.dirname)
    try:
        await fs.stat(path)
    except OSError:
        return []
    what = f"an INBOX in the tree, which is not shown: INBOX={location.inbox} is"
    todo = "see which one has the mail; Dovecot uses what its INBOX= (2.4: mail_inbox_path) says"
    return [Finding(Severity.WARNING, "hidden", path, what, todo)]
