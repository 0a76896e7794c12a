"""Sources that tests import, made by hand; and what Dovecot shows of stores."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

from dboxfs.cli.begin_writing import begin_writing
from dboxfs.fsapi import FileSystem, Permissions, ThreadsDriver
from dboxfs.fsapi.drivers.base import Driver
from dboxfs.fsapi.temporary import Process
from dboxfs.store import Kind, Location, open_store, parse_location
from dboxfs.store.write import Neighbour, StoreWriter, WriteOptions
from dboxfs.tools.importing import Imported, Importer, find_source, is_begun, make_store
from tests.live.dovecot import Account, Dovecot, Fetched

FROM = b"From u@h  Thu Jul 01 08:00:00 2010 +0000\n"
RECEIVED = 1277971200
Rows = dict[str, list[Fetched]]


def text(number: int, size: int = 0) -> bytes:
    return b"Subject: %d\n\n" % number + b"line %d\n" % number * (1 + size // 8)


def maildir(root: Path, messages: dict[str, bytes], **files: bytes) -> Path:
    """A Maildir with files in ``cur`` (``new/NAME``: there); *files*: ``dovecot_uidlist`` and the like."""
    for name in ("cur", "new", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, data in messages.items():
        path = root / (name if name.startswith("new/") else f"cur/{name}")
        path.write_bytes(data)
        os.utime(path, (RECEIVED, RECEIVED))
    for file, data in files.items():
        (root / file.replace("_", "-")).write_bytes(data)
    return root


async def imported(
    source: Path,
    store: Path,
    *,
    kind: str = "mdbox",
    driver: Driver | None = None,
    only: str | None = None,
    verify: bool = True,
    options: WriteOptions | None = None,
    process: Process | None = None,
) -> Imported:
    """Import into the store at *store*, which is made if it is missing, as the command does.

    :param process: who does it, if it is another one.
    """
    location = Location(Kind(kind), str(store))
    options = options or WriteOptions(neighbour=Neighbour.ALONE)
    found = find_source(str(source))
    async with FileSystem(driver or ThreadsDriver()) as fs:
        if await is_begun(fs, str(store)):
            await make_store(fs, location, Permissions(0o700), options)
        location = parse_location(str(store))
        async with open_store(fs, location, follow=False) as opened:
            writer = StoreWriter(fs, location, opened.owner, options)
            writer.disk.process = process or writer.disk.process
            await begin_writing(writer, opened, options)
            return await Importer(opened, writer, found, only=only, verify=verify).run()


def given(account: Account, where: Path) -> None:
    """Everything at *where* belongs to the account's user: a Dovecot may use it."""
    for path in [where, *where.rglob("*")]:
        shutil.chown(path, account.dovecot.mail_user)


def rows(account: Account) -> Rows:
    """What Dovecot shows of all mailboxes, but modseqs."""
    found = {}
    for name in account.status():
        found[name] = [
            replace(message, modseq=0, keywords=" ".join(sorted(message.keywords.split())))
            for message in account.fetch(name)
        ]
    return found


def without(found: Rows, *fields: str) -> Rows:
    """The same without some fields."""
    blank = {name: "" if name in ("guid", "pop3_uidl") else 0 for name in fields}
    return {name: [replace(message, **blank) for message in messages] for name, messages in found.items()}  # type: ignore[arg-type]


def identities(account: Account, *fields: str) -> dict[str, tuple[object, ...]]:
    """guid, uidvalidity and next uid of all mailboxes, or *fields*."""
    wanted = fields or ("guid", "uidvalidity", "uidnext", "messages", "unseen")
    return {
        name: tuple(getattr(status, field) for field in wanted) for name, status in account.status().items()
    }


def store_of(dovecot: Dovecot, kind: str) -> Account:
    """An account whose store is missing."""
    return dovecot.account(f"{kind}:{{home}}/mail")
