"""One machine writes a store that lies on a network file system.

There locks of fcntl(2) work between machines, but what a process reads under a lock may be older than the
lock: GlusterFS 10.3 shows another machine's appends, and names that it has changed, up to two seconds late.
A writer that appends to a log as it was leaves a hole in it, and mail is lost.  So who writes such a store, a
writable mount or a command, first locks the file ``dboxfs-writer`` in the control directory, and keeps the
lock until the store is closed.  The file has one line: host, boot and device number of the mount that the
store is reached by.  A command does without the lock where the line is that of its own mount: the kernel
shows both processes the same.

A Dovecot knows nothing of the lock: it has to run on the machine whose mount writes.  If the process dies,
its lock is gone; the file stays, and means nothing.
"""

from __future__ import annotations

import errno
import logging
import os
from contextlib import suppress

from dboxfs.errors import StoreBusy
from dboxfs.fsapi.ops import LockKind
from dboxfs.fsapi.temporary import Process
from dboxfs.store.disk import AppendFile, Disk
from dboxfs.store.store import Store
from dboxfs.store.write_options import WriteOptions
from dboxfs.util.network import NetworkMounts

log = logging.getLogger(__name__)

FILE = "dboxfs-writer"

_LINE_BYTES = 512
_WITHOUT_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


async def claim(store: Store, options: WriteOptions, *, shares: bool = False) -> None:
    """Have the store for this machine until it is closed; does nothing on a local file system.

    :param shares: a writable mount of this machine may have it.
    :raises StoreBusy: another machine has it, or another mount of this one.
    :raises OSError: the file can't be made or locked.
    """
    root = store.location.root
    kind = NetworkMounts().kind_of(store.location.control_dir)
    if kind is None or store.claim is not None:
        return
    disk = Disk(store.fs, store.owner, options, root)
    path = os.path.join(store.location.control_dir, FILE)
    here = Process.this()
    line = f"{here.host} {here.mark or '-'} {store.owner.st_dev}\n"
    file, locked = await _lock(disk, path, kind)
    try:
        if locked and file is not None:
            await file.cut(0)
            await file.append(line.encode())
            store.claim, file = file, None
        elif file is not None:
            await file.sync()  # which also has the file system show it as it is
            held = (await file.read(_LINE_BYTES, 0)).decode("utf-8", "replace")
            if not (shares and held == line):
                host = held.partition(" ")[0] or "?"
                raise StoreBusy(
                    f"{root}: a process on {host} is writing it, and it lies on a network file system "
                    f"({kind}), where one mount writes at a time; unmount it there"
                )
    finally:
        if file is not None:
            await file.close()


async def _lock(disk: Disk, path: str, kind: str) -> tuple[AppendFile | None, bool]:
    """The file, and whether it is locked; (None, False): the file system has no locks, which is logged."""
    with suppress(FileExistsError):
        await (await disk.create(path)).close()
    file = await disk.open(path)
    try:
        return file, await file.try_lock(LockKind.RECORD)
    except OSError as error:
        await file.close()
        if error.errno not in _WITHOUT_LOCKS:
            raise
        log.warning("%s: %s has no locks, so no other machine may write the store meanwhile", path, kind)
        return None, False
