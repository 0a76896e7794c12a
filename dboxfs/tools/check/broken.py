"""Copies of damaged files that Dovecot kept when it repaired them: ``u.N.broken``, ``m.N.broken``.

Dovecot's repair drops messages that it can't read (recovery section 3); the copy still has them.  So the
check compares the copy with the store: the copy may only be removed if the store has all of its messages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Sequence
from typing import Final

from dboxfs.fsapi import FileSystem
from dboxfs.store.location import Kind, Location
from dboxfs.store.odd_files import why_unreadable
from dboxfs.store.salvage import Found, Trust, open_window, scan_file
from dboxfs.tools.check.findings import Finding, Severity
from dboxfs.tools.check.indexes import Index

BROKEN: Final = re.compile(r"[um]\.[0-9]+\.broken")

_CHUNK = 256 << 10


async def broken_findings(
    fs: FileSystem, location: Location, boxes: Sequence[Index], guids: Container[bytes]
) -> list[Finding]:
    """Compare every ``.broken`` copy with the store; one finding for each copy.

    :param guids: the guids of all messages in the store, 16 bytes each.
    """
    findings = []
    for directory, box in _directories(location, boxes):
        try:
            names = sorted(entry.name for entry in await fs.listdir(directory))
        except OSError:
            continue  # the check of the mailbox or of the storage reports this directory
        for name in names:
            if BROKEN.fullmatch(name):
                path = os.path.join(directory, name)
                findings.append(await _broken(fs, path, box, guids, single=location.kind is Kind.SDBOX))
    return findings


def _directories(location: Location, boxes: Sequence[Index]) -> list[tuple[str, Index | None]]:
    if location.kind is Kind.MDBOX:
        return [(path, None) for path in (location.storage, location.alt_storage) if path is not None]
    found: list[tuple[str, Index | None]] = []
    for box in boxes:
        assert box.mailbox is not None
        paths = (location.mailbox_path(box.mailbox), location.alt_mailbox_path(box.mailbox))
        found += [(path, box) for path in paths if path is not None]
    return found


async def _broken(
    fs: FileSystem, path: str, box: Index | None, guids: Container[bytes], *, single: bool
) -> Finding:
    whose = f"{box.what}: " if box is not None else ""
    name = os.path.basename(path)
    mailbox = box.mailbox if box is not None else None
    what = f"{whose}{name} is the copy of a damaged file that Dovecot has repaired"
    try:
        async with open_window(fs, path, _CHUNK) as window:
            items = [item async for item in scan_file(window, single=single, texts=False)]
    except OSError as exc:
        what = f"{what}; it can't be read: {why_unreadable(exc)}"
        todo = "keep it if anything is missing"
        return Finding(Severity.WARNING, "broken-copy", path, what, todo, mailbox=mailbox)
    messages = [item for item in items if isinstance(item, Found) and not item.inside]
    lost = [one for one in messages if one.guid is None or one.guid not in guids]
    if not lost:
        what = f"{what}; every message of it ({len(messages)}) is in the store"
        todo = "it may be removed"
        return Finding(Severity.NOTE, "broken-copy", path, what, todo, mailbox=mailbox)
    whole = sum(one.trust is not Trust.DAMAGED for one in lost)
    what = (
        f"{what}; {len(lost)} of its {len(messages)} messages ({whole} of them whole) are not in the store: "
        "the repair dropped them, or they were expunged since"
    )
    todo = "keep it; dboxfs rescue STORE DST brings them back"
    return Finding(Severity.WARNING, "broken-copy", path, what, todo, mailbox=mailbox, count=len(lost))
