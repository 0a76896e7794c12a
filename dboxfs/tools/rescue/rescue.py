"""The whole rescue, step by step.

1. read the indexes (``index_facts.py``); 2. read the files from end to end (``scan_files.py``, with
:mod:`dboxfs.store.salvage`); 3. find the mailbox of each message (``place.py``); 4. write the new store
(``write_store.py``).

The old store is only read.  The new one is written like any other (``store/write/PROTOCOL.md``), each
transaction durable.  An interrupted rescue leaves a store with some of the messages; remove it and start
again.  Memory: about 800 bytes a message, and some megabytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from dboxfs.errors import CorruptFile, NoSuchStore, Unsupported
from dboxfs.fsapi import FileSystem, Peek, PeekResult
from dboxfs.store.dbox_version import DEFAULT, recorded_version
from dboxfs.store.disk import Disk
from dboxfs.store.location import Kind, Location
from dboxfs.store.owner_rights import owned_target
from dboxfs.store.subscriptions import parse_subscriptions
from dboxfs.store.write import Neighbour, StoreWriter, WriteOptions, init_store
from dboxfs.store.write.new_store import make_root
from dboxfs.tools.rescue.events import Emit, Event, Rescued
from dboxfs.tools.rescue.index_facts import learn
from dboxfs.tools.rescue.place import assign
from dboxfs.tools.rescue.scan_files import Harvest
from dboxfs.tools.rescue.sources import Texts
from dboxfs.tools.rescue.write_store import Planter

DAMAGED_MAILBOX = "Rescued-Damaged"
"""The mailbox for incomplete messages (:attr:`RescueOptions.partial`)."""

_LARGEST_SUBSCRIPTIONS = 16 << 20
_LARGEST_NAMES = 256 << 20
_NAMES = "dboxfs-names"  # its contents: dboxfs.store.names.table


class RescueOptions(Struct, frozen=True):
    """How to rescue.

    :param kind: format of the new store.
    :param version: dbox version of its messages, 2 or 3; None: the version that the old store records.
    :param partial: save the readable part of damaged messages into :data:`DAMAGED_MAILBOX`.
    :param writing: options of the writer of the new store.
    """

    kind: Kind
    version: int | None = None
    partial: bool = False
    writing: WriteOptions = field(default_factory=lambda: WriteOptions(neighbour=Neighbour.ALONE))


class Progress(Struct, frozen=True):
    """``reading``: messages found and bytes read so far; else messages saved so far, of about ``of``."""

    reading: bool
    messages: int
    bytes: int = 0
    of: int = 0


async def rescue_store(
    fs: FileSystem,
    source: Location,
    root: str,
    options: RescueOptions,
    emit: Emit,
    progress: Callable[[Progress], None] | None = None,
    *,
    target_fs: FileSystem | None = None,
) -> Rescued:
    """Make a new store at *root* of everything that can be read of *source*.

    :param fs: reaches *source*.  :param target_fs: reaches *root*; None: *fs* does.
    :param root: a directory that is empty or does not exist; absolute.  If the rescue makes it, it gets
        owner, group and modes of the source's root; everything in it gets those of *root*.
    :param emit: gets an event for everything that was lost, guessed or left unknown.
    :raises NoSuchStore: the source's root can't be read, or *root* can't be made.
    :raises Unsupported: messages are to be compressed, and the new ones are of dbox version 3.
    :raises StoreExists: there is something in *root*.
    :raises OSError: the new store can't be written.
    """
    done = Rescued()
    told, new = progress or _nobody, target_fs or fs

    def report(event: Event) -> None:
        done.events[event.code] += 1
        emit(event)

    try:
        await fs.listdir(source.root)
    except OSError as exc:
        raise NoSuchStore(f"{source.root}: {exc.strerror}") from exc
    target = source.same_names(options.kind, root)
    done.version = options.version or await _version(fs, source, report)
    writing = replace(options.writing, dbox_version=done.version)
    if writing.compress is not None and done.version == 3:
        raise Unsupported("messages of dbox version 3 are not compressed; give --dbox-version 2 as well")
    permissions = Disk(new, await fs.stat(source.root), writing).dir_permissions
    await make_root(new, root, permissions)
    async with owned_target(new, root) as files:
        await init_store(files, target, permissions, writing)
        writer = StoreWriter(files, target, await files.stat(root), writing)
        await _fill(fs, source, writer, done, report, told, partial=options.partial)
    return done


async def _fill(
    fs: FileSystem,
    source: Location,
    writer: StoreWriter,
    done: Rescued,
    report: Emit,
    told: Callable[[Progress], None],
    *,
    partial: bool,
) -> None:
    """Find all messages of *source*, and save them with *writer*; counts them in *done*."""
    knowledge = await learn(fs, source, report)

    def reading(messages: int, size: int) -> None:
        told(Progress(True, messages, size))

    harvest = Harvest(fs, source, knowledge, report, done, reading)
    await harvest.gather()
    if harvest.pop3:
        what = f"{harvest.pop3} messages had POP3 UIDLs or places of their own, which are not kept"
        report(Event("pop3", what))
    assigned = assign(harvest)
    suffixes = {box.name: f"-{box.header.guid.hex()}-" for box in knowledge.boxes if box.header is not None}
    texts = Texts(fs, source, suffixes)
    try:

        def saving(messages: int) -> None:
            told(Progress(False, messages, done.bytes, len(harvest.rows)))

        planter = Planter(harvest, assigned, texts, writer, saving)
        await planter.mailboxes()
        if partial:
            await planter.damaged(DAMAGED_MAILBOX)
    finally:
        texts.close()
    await _subscribe(fs, source, writer, report)
    guids = [guid for name, guid in planter.kept.items() if name not in planter.renumbered]
    await _keep_names(fs, source, writer.disk, writer.location, guids, report)


async def _keep_names(
    fs: FileSystem, source: Location, disk: Disk, target: Location, guids: Sequence[bytes], report: Emit
) -> None:
    """Copy the tables of written names, for mailboxes that keep their guid and all uids."""
    paths = [os.path.join(_NAMES, guid.hex()) for guid in guids]
    wanted = [
        Peek(os.path.join(source.control_dir, path), ((0, None),), _LARGEST_NAMES, True) for path in paths
    ]
    for path, ask, found in zip(paths, wanted, await fs.peek(wanted), strict=True):
        if isinstance(found, PeekResult):
            await disk.make_dirs(os.path.join(target.control_dir, _NAMES))
            await disk.write_new(os.path.join(target.control_dir, path), found.chunks[0])
        elif not isinstance(found, FileNotFoundError):
            what = f"the names that messages were written under can't be read: {found.strerror}"
            report(Event("unreadable", what, ask.path))


async def _version(fs: FileSystem, source: Location, report: Emit) -> int:
    try:
        return await recorded_version(fs, source)
    except (CorruptFile, OSError) as exc:
        report(Event("unreadable", f"which dbox version the store has can't be read: {exc}; 2 is taken"))
        return DEFAULT


def _nobody(progress: Progress) -> None:
    """The progress function of a caller that gave none."""


async def _subscribe(fs: FileSystem, source: Location, writer: StoreWriter, report: Emit) -> None:
    path = os.path.join(source.control_dir, source.subscriptions)
    (found,) = await fs.peek([Peek(path, ((0, None),), limit=_LARGEST_SUBSCRIPTIONS)])
    if isinstance(found, PeekResult):
        for name in sorted(parse_subscriptions(found.chunks[0])):
            await writer.subscribe(name)
    elif not isinstance(found, FileNotFoundError):
        why = found.strerror if isinstance(found, OSError) else "the file is too large"
        report(Event("unreadable", f"the subscriptions can't be read: {why}", path))
