"""The dbox version of new messages: the store's record, the caller's choice, and a safety check."""

from __future__ import annotations

from msgspec.structs import replace

from dboxfs.errors import Unsupported
from dboxfs.store.dbox_version import recorded_version, trace_of_dovecot
from dboxfs.store.store import Store
from dboxfs.store.write_errors import DovecotNeedsVersion2
from dboxfs.store.write_options import Neighbour, WriteOptions


async def with_version(
    store: Store, options: WriteOptions, asked: int | None = None, *, force: bool = False
) -> WriteOptions:
    """*options* with the dbox version for new messages of *store*.

    A store of version 3 without traces of a Dovecot has no Dovecot: then the writer works as ``ALONE``.

    :param asked: 2 or 3; None: the recorded version.
    :param force: write version 3 though a Dovecot has used the store.
    :raises DovecotNeedsVersion2: version 3 without *force*, though a Dovecot has used the store.
    :raises Unsupported: version 3, but new messages are to be compressed or encrypted.
    :raises CorruptFile, OSError: the recorded version can't be read.
    """
    version = asked if asked is not None else await recorded_version(store.fs, store.location)
    options = replace(options, dbox_version=version)
    if version != 3:
        return options
    if options.compress is not None:
        raise Unsupported(
            f"{store.location.root}: new messages are of dbox version 3, which dboxfs does not compress; "
            "mount without -o compress"
        )
    if options.encrypt is not None:
        raise Unsupported(
            f"{store.location.root}: new messages are of dbox version 3, which dboxfs does not encrypt; "
            "mount without -o encrypt"
        )
    boxes = {name: folder.mailbox for name, folder in store.folders.items() if folder.mailbox is not None}
    trace = await trace_of_dovecot(store.fs, store.location, boxes)
    if trace is None:
        return replace(options, neighbour=Neighbour.ALONE)
    if not force:
        raise DovecotNeedsVersion2(
            f"{store.location.root}: a Dovecot has used this store ({trace}), and Dovecot can't read dbox "
            "version 3; mount with -o rw,dbox_version=2, or with --force if no Dovecot ever will again"
        )
    return options
