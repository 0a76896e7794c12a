"""Finds out the format of a source."""

from __future__ import annotations

import os
import stat
from shlex import quote

from dboxfs.tools.importing.errors import NoSource
from dboxfs.tools.importing.maildir import find_maildirs
from dboxfs.tools.importing.mbox import find_mboxes, is_mbox, one_mbox
from dboxfs.tools.importing.source import MailSource, reason_of
from dboxfs.tools.importing.tree import find_tree

KINDS = ("maildir", "mbox", "tree")


def find_source(path: str, kind: str | None = None) -> MailSource:
    """The source at *path*.  Blocks: it lists directories.

    :param kind: one of :data:`KINDS`; None: find it out.
    :raises NoSource: *path* is no source of this kind, or of any kind.
    """
    try:
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            return _of_file(path, status.st_size, kind)
        if not stat.S_ISDIR(status.st_mode):
            raise NoSource(f"{path}: neither a file nor a directory")
        return _of_directory(path, kind)
    except OSError as exc:
        raise NoSource(f"{exc.filename or path}: {reason_of(exc)}") from exc


def _of_file(path: str, size: int, kind: str | None) -> MailSource:
    if kind not in (None, "mbox"):
        raise NoSource(f"{path}: a file, no directory of messages; an mbox is --from mbox")
    if not is_mbox(path) and (size or kind is None):
        raise NoSource(
            f"{path}: no mbox: it doesn't begin with a From_ line; a single message is copied into a "
            "writable mount"
        )
    return one_mbox(path)


def _of_directory(path: str, kind: str | None) -> MailSource:
    if kind is None and os.path.isdir(os.path.join(path, "mailboxes")) and _is_dbox(path):
        raise NoSource(
            f"{path}: this is a dbox store; make a copy of it with: dboxfs convert {quote(path)} DST"
        )
    finders = {"maildir": find_maildirs, "tree": find_tree, "mbox": find_mboxes}
    for name, find in finders.items():
        if kind in (None, name) and (found := find(path)) is not None:
            return found
    wanted = {"maildir": "no Maildir", "tree": "no copied message", "mbox": "no mbox"}
    what = wanted[kind] if kind is not None else "no Maildir, no mbox and no message copied out of a mount"
    raise NoSource(f"{path}: {what} is there; name the directory that holds them")


def _is_dbox(path: str) -> bool:
    inbox = os.path.join(path, "mailboxes", "INBOX", "dbox-Mails")
    return os.path.isdir(inbox) or os.path.isdir(os.path.join(path, "storage"))
