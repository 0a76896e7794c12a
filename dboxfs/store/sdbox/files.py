"""Files of single-dbox messages: their attachments, and what is removed after an expunge."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from dboxfs.dbox import parse_ext_refs
from dboxfs.errors import Unsupported
from dboxfs.fsapi import ops
from dboxfs.store.indexes.log import IndexLog
from dboxfs.store.sdbox.arrival import Arrival
from dboxfs.store.sdbox.read import SdboxFiles
from dboxfs.store.write.session import Work

_BATCH = 256


async def attachments_of(
    work: Work, name: str, uids: Sequence[int], guid: bytes
) -> dict[int, tuple[tuple[str, str], ...]]:
    """The attachment files of messages: (file, path without suffix), by uid."""
    files = SdboxFiles(work.fs, work.location, name)
    found = {}
    for start in range(0, len(uids), _BATCH):
        for scanned in await files.scan(np.array(uids[start : start + _BATCH], np.uint32)):
            refs = scanned.record.metadata.ext_refs if scanned.record is not None else None
            if refs is None:
                continue
            directory = work.location.attachments
            if directory is None:
                raise Unsupported(
                    f"{work.shown(name)}: uid {scanned.uid} has external attachments; "
                    "say where they are: -o attachments=DIR"
                )
            paths = [os.path.join(directory, ref.path) for ref in parse_ext_refs(refs)]
            found[scanned.uid] = tuple((f"{p}-{guid.hex()}-{scanned.uid}", p) for p in paths)
    return found


async def attachment_files(
    work: Work, name: str, index: IndexLog, uids: Sequence[int], *, beside: bool = False
) -> list[str] | None:
    """What else goes with messages of a locked mailbox that will be expunged: their attachment files, none if
    one doesn't know where they are; and files that could not be removed before.

    :param beside: a Dovecot may be there, which would know: None in that case.
    """
    files: list[str] = []
    if uids and (beside or work.location.attachments is not None):
        try:
            found = await attachments_of(work, name, uids, work.header(index).guid)
        except Unsupported:
            return None
        files = [file for pairs in found.values() for file, _ in pairs]
    return [*files, *await work.still_unremoved(name, index)]


def part_links(work: Work, index: IndexLog, news: Sequence[Arrival]) -> list[tuple[str, str]]:
    """The attachment files of messages that have their uids, and the names that they have for these."""
    guid = work.header(index).guid.hex()
    return [(there, f"{path}-{guid}-{new.uid}") for new in news for there, path in new.attachments]


async def link_parts(work: Work, index: IndexLog, news: Sequence[Arrival]) -> None:
    """Give the attachment files of messages that have their uids the names of these."""
    links = part_links(work, index, news)
    for existing, link in links:
        await work.link_or_copy(existing, link)
    for directory in sorted({os.path.dirname(link) for _, link in links}):
        await work.disk.sync_dir(directory)


async def number_again(
    work: Work, index: IndexLog, news: Sequence[Arrival], taken: Sequence[Arrival]
) -> None:
    """Give messages whose name was taken the uids behind those of *news*; their attachments follow."""
    links = [link for _, link in part_links(work, index, taken)]
    highest = max(new.uid for new in news)
    for number, new in enumerate(taken, highest + 1):
        new.uid = number
    if links:
        await link_parts(work, index, taken)
        await work.disk.discard(links)


async def unlink(work: Work, name: str, uids: Sequence[int], attachments: Sequence[str]) -> None:
    """Remove the files of messages that have no record any more.

    :raises OSError: one could not be removed; the others were.
    """
    paths = [work.message_paths(name, uid) for uid in uids]
    first = await work.disk.run_all([ops.Unlink(some[0]) for some in paths])
    again = [
        path
        for some, answer in zip(paths, first, strict=True)
        if isinstance(answer, FileNotFoundError)
        for path in some[1:]
    ]
    second = await work.disk.run_all([ops.Unlink(path) for path in [*again, *attachments]])
    failed: OSError | None = None
    done = zip([*(some[0] for some in paths), *again, *attachments], [*first, *second], strict=True)
    for path, answer in done:
        if isinstance(answer, OSError) and not isinstance(answer, FileNotFoundError):
            await work.remember_unremoved(path)
            failed = failed or answer
    if failed is not None:
        raise failed
