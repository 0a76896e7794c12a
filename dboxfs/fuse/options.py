"""What a mount may be told: how the tree is shown and to whom, what the kernel is given, how the store is
written.

Nothing that is imported here needs FUSE: the command line reads options on a machine without it, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dboxfs.store.writing import WriteOptions


@dataclass(frozen=True, slots=True)
class ViewOptions:
    """How files are shown.  ``uid``, ``gid``: owner, None: the store's.

    ``umask``: permission bits taken away.  ``separator``: between the parts of ``user.dbox.mailbox``.
    ``writable``: the modes allow the owner to write.
    """

    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    writable: bool = False
    separator: str = "/"


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What is given to the kernel and to the view.

    ``fast_loop``: use the stand-in of :mod:`dboxfs.fuse.loop`.  ``fuse``: further options for libfuse.
    ``write``: how the store is written; None: not at all.  ``dbox_version``: of new messages; None: what the
    store says.  ``force``: also where a Dovecot can't read it, and where mail seems to be hidden.
    ``cache_dir``: where sizes are kept for the next mount; None: nowhere.  ``table_size``: of how many
    messages parsed records are kept in memory.
    """

    allow_other: bool = False
    fast_loop: bool = True
    view: ViewOptions = field(default_factory=ViewOptions)
    fuse: tuple[str, ...] = ()
    write: WriteOptions | None = None
    dbox_version: int | None = None
    force: bool = False
    cache_dir: str | None = None
    table_size: int = 10_000
