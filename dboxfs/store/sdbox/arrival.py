"""Messages on their way into a single-dbox mailbox, and the job that writes one and takes the lock.

A message has a finished temporary file when it joins a commit, since writers that save together then write
side by side.  A single writer's small message has none: the commit writes it, and takes the mailbox's lock in
the same job of a worker, if it is free.  The order of the steps is the same (PROTOCOL section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from msgspec import Struct

from dboxfs.errors import DboxfsError, NoSuchMailbox
from dboxfs.fsapi.chain import Steps
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.log import locked_behind
from dboxfs.store.write.group_commit import Request
from dboxfs.store.write.naming import Wanted
from dboxfs.store.write.results import Saved
from dboxfs.store.write.session import Work


class Arrival(Struct):
    """A message that waits for its uid.  ``attachments``: (existing file, path without the suffix).  ``uid``:
    at first the lowest uid that the message may have.  ``wanted``: the name that the message shall have.
    ``data``: the bytes of its file, which the commit writes; None: there is a file.  ``inode``: number of its
    file, once the commit has looked; 0: not yet.
    """

    temporary: str
    flags: int
    keywords: tuple[str, ...]
    guid: bytes
    replaces: int | None = None
    inherits: int | None = None
    attachments: tuple[tuple[str, str], ...] = ()
    uid: int = 0
    wanted: Wanted | None = None
    has_pop3_uidl: bool = False
    saved: int | None = None
    data: bytes | None = None
    inode: int = 0


ArrivalRequest = Request[list[Arrival], Saved]


async def need_directory(work: Work, name: str) -> None:
    """Make the directory of a mailbox: with ``INDEX=`` it may have an index and no directory yet.

    :raises NoSuchMailbox: it has neither.
    """
    directory = work.location.mailbox_path(name)
    if await work.disk.exists(directory):
        return
    if work.location.index is None or not await work.disk.exists(work.index(name).log_path):
        raise NoSuchMailbox(f"{work.shown(name)}: no such mailbox")
    await work.disk.make_dirs(directory)


async def write_and_lock(
    work: Work, name: str, group: Sequence[ArrivalRequest], stack: AsyncExitStack
) -> Sequence[ArrivalRequest]:
    """Write the messages of *group* that have no file yet; in the same job take the mailbox's lock until the
    end of *stack*, if it is free.

    Gives the requests whose messages have files; the others have their errors.
    """
    late = [new for request in group for new in request.what if new.data is not None]
    if not late:
        return group
    for new in late:
        new.temporary = work.disk.temporary(work.location.mailbox_path(name))
    writing = partial(_write, work.disk, late)
    errors = await stack.enter_async_context(locked_behind([work.index(name)], writing, _all_went_well))
    for new, error in zip(late, errors, strict=True):
        if error is not None:
            (request,) = [some for some in group if any(new is one for one in some.what)]
            request.error = request.error or await _write_again(work, name, new, error)
        new.data = None
    return [request for request in group if request.error is None]


def _write(disk: Disk, late: Sequence[Arrival]) -> Steps[list[OSError | None]]:
    errors = []
    for new in late:
        errors.append((yield from disk.writing_new(new.temporary, new.data or b"")))
    return errors


def _all_went_well(errors: list[OSError | None]) -> bool:
    return not any(errors)


async def _write_again(work: Work, name: str, new: Arrival, error: OSError) -> Exception | None:
    """Write a message whose temporary name was taken, or whose directory was missing; gives the error."""
    if not isinstance(error, FileExistsError | FileNotFoundError):
        return error
    new.temporary = ""  # no file, or another's
    try:
        await need_directory(work, name)
        while True:
            new.temporary = work.disk.temporary(work.location.mailbox_path(name))
            try:
                await work.disk.write_new(new.temporary, new.data or b"")
            except FileExistsError:
                new.temporary = ""
            else:
                return None
    except (OSError, DboxfsError) as exc:
        return exc
