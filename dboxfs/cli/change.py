"""``init`` and ``purge``: change a store without mounting it."""

from __future__ import annotations

import argparse
import os

import trio

from dboxfs.cli.logs import log_to_stderr
from dboxfs.fsapi import FileSystem, ThreadsDriver
from dboxfs.store import Kind, Location, open_store, parse_location
from dboxfs.store.writing import Neighbour, PurgeProgress, StoreWriter, WriteOptions, init_store


def init(arguments: argparse.Namespace) -> int:
    """``dboxfs init STORE --format sdbox|mdbox [--dbox-version 2|3]``."""
    log_to_stderr()
    root = os.path.abspath(os.path.expanduser(arguments.store))
    location = Location(Kind(arguments.format), root)

    async def run() -> None:
        async with FileSystem(ThreadsDriver()) as fs:
            await init_store(fs, location, options=WriteOptions(dbox_version=arguments.dbox_version))

    trio.run(run)
    kind = location.kind.value
    if arguments.dbox_version == 2:
        print(f"{root}: an empty {kind} store; for Dovecot: mail_location = {kind}:{root}")
    else:
        print(f"{root}: an empty {kind} store of dbox version {arguments.dbox_version}, for dboxfs alone")
    return 0


def purge(arguments: argparse.Namespace) -> int:
    """``dboxfs purge STORE [--dry-run]``."""
    log_to_stderr()
    location = parse_location(arguments.store)

    async def run() -> int:
        async with FileSystem(ThreadsDriver()) as fs, open_store(fs, location, follow=False) as store:
            writer = StoreWriter(fs, location, store.owner, WriteOptions(neighbour=Neighbour.ALONE))
            if not arguments.dry_run:
                await writer.recover()
            done = await writer.purge(dry_run=arguments.dry_run, report=_show)
        verb = "would free" if arguments.dry_run else "freed"
        print(f"{verb} {done.bytes_freed} bytes: {done.messages} messages in {done.files} files")
        for line in done.left:
            print(f"left alone: {line}")
        return 1 if done.left else 0

    return trio.run(run)


def _show(progress: PurgeProgress) -> None:
    print(f"{progress.files_done} of {progress.files} files, {progress.bytes_freed} bytes", flush=True)
