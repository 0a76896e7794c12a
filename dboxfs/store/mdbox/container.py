"""Files that a save appends to, and what a rebuild of the storage does to them meanwhile.

A save appends its records before it locks the map (PROTOCOL section 4). A rebuild by Dovecot between these
two steps takes no notice of the lock of ``m.N``: it reads all files, and

* gives each whole record that the map does not have a map uid, and a message in the mailbox of its B line;
* if the last record is incomplete, puts a copy of the file in its place that ends before it. The file that is
  being appended to is called ``m.N.broken`` from then on.

So both the map and the name of the file are looked at again once the map is locked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from msgspec import Struct

from dboxfs.index.mapindex import MapIndex
from dboxfs.store.disk import AppendFile
from dboxfs.store.write.record import Place
from dboxfs.store.write.session import Work


class Container(Struct, eq=False):
    """A file that is being appended to.

    ``file_id`` 0: new, not named yet.  ``start``: its size before.  ``header``: still to be written.
    ``key``: of a file of format 3.  ``mark``: that of the map's log when the file was compared with the map.
    """

    file: AppendFile
    file_id: int
    start: int
    new: bool = False
    header: bytes = b""
    key: bytes | None = None
    mark: tuple[int, int, int] | None = None

    @property
    def end(self) -> int:
        """The offset of the next record (bytes)."""
        return self.file.size + len(self.header)

    @property
    def next(self) -> Place:
        """The place of the next record."""
        return Place(self.end, self.key)


class Placed(Struct, frozen=True):
    """The place of a record: *size* bytes at *offset* in *container*."""

    container: Container
    offset: int
    size: int


class Rebuilt(Struct, frozen=True):
    """What a rebuild has done to the records that were appended to a file.

    :param in_place: the file still has its name; else a copy has it.
    :param map_uids: by offset, of the records behind the end that the file had before.
    """

    in_place: bool
    map_uids: Mapping[int, int]


async def rebuilt(work: Work, mapping: MapIndex, container: Container) -> Rebuilt | None:
    """What a rebuild has done to *container*; None: nothing.  The map is locked."""
    seen = container.mark
    if container.new or (seen is not None and seen == work.map_view.mark):
        return None
    now = await work.disk.stat(container.file.path)
    in_place = now is not None and (now.st_dev, now.st_ino) == container.file.identity
    rows = np.flatnonzero((mapping.file_ids == container.file_id) & (mapping.offsets >= container.start))
    if in_place and not len(rows):
        return None
    places = zip(mapping.offsets[rows].tolist(), mapping.map_uids[rows].tolist(), strict=True)
    return Rebuilt(in_place, dict(places))
