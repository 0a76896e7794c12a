"""The control directory of a destination: subscriptions, written names, version, UIDVALIDITY."""

from __future__ import annotations

import os
from collections.abc import Mapping

from msgspec import Struct

from dboxfs.store.dbox_version import DEFAULT, encode_version, version_path
from dboxfs.store.disk import Disk
from dboxfs.store.indexes.create import last_uid_validity, set_uid_validity
from dboxfs.store.location import WRITTEN_NAMES
from dboxfs.store.store import Store
from dboxfs.store.write_options import WriteOptions
from dboxfs.tools.convert.mailbox_snapshot import MailboxSnapshot
from dboxfs.tools.convert.source import reason
from dboxfs.tools.convert.staging import Workplace


class ControlFiles(Struct, frozen=True):
    """Copies the control files from *store* to the destination in *place*.

    :param portraits: the source's mailboxes, by storage name.
    """

    store: Store
    place: Workplace
    portraits: Mapping[str, MailboxSnapshot]

    @property
    def _source(self) -> Disk:
        """Reads the store, with the rights that it was opened with."""
        return Disk(self.store.fs, self.store.owner, WriteOptions(), self.store.location.root)

    async def write(self, version: int) -> list[str]:
        """Write all control files; returns a line for each that could not be read.

        :param version: dbox version of the destination's messages.
        :raises OSError: the destination can't be written.
        """
        failed = await self._subscriptions() + await self._names()
        disk, target = self.place.work.disk, self.place.work.location
        if version != DEFAULT:
            await self.place.write(version_path(target), encode_version(version))
        given = [await last_uid_validity(self._source, self.store.location)]
        given += [portrait.uid_validity for portrait in self.portraits.values()]
        if any(given):
            await set_uid_validity(disk, target, max(given))
        return failed

    async def _subscriptions(self) -> list[str]:
        """Copy the subscriptions byte by byte."""
        location = self.store.location
        path = os.path.join(location.control_dir, location.subscriptions)
        try:
            subscriptions = await self._source.read_whole(path)
        except OSError as exc:
            return [f"the subscriptions were left out: {reason(exc)}"]
        if subscriptions is not None:
            control = self.place.work.location.control_dir
            await self.place.write(os.path.join(control, "subscriptions"), subscriptions)
        return []

    async def _names(self) -> list[str]:
        """Copy the written names: one file for each mailbox, by uid.  The uids stay, so the files fit."""
        location = self.store.location
        there = os.path.join(self.place.work.location.control_dir, WRITTEN_NAMES)
        failed = []
        for name, portrait in self.portraits.items():
            guid = portrait.guid.hex()
            try:
                data = await self._source.read_whole(os.path.join(location.control_dir, WRITTEN_NAMES, guid))
            except OSError as exc:
                shown = location.display_name(name)
                failed.append(f"{shown}: the names of its files were left out: {reason(exc)}")
                continue
            if data is not None and any(portrait.guid):
                await self.place.work.disk.make_dirs(there)
                await self.place.write(os.path.join(there, guid), data)
        return failed
