"""The options of a mount: the view and its permissions, the interplay with the kernel, writing.

No import of this module needs FUSE: the command line reads options also on a machine without it.
"""

from __future__ import annotations

import enum
import json
import os

from msgspec import Struct, field

from dboxfs.store import Folder, Kind, Store
from dboxfs.store.write import WriteOptions
from dboxfs.util.addresses import Address

_EPOCH_SINCE = (6, 16)


class Entries(enum.Enum):
    """How names are invalidated in the kernel: see :mod:`dboxfs.fuse.notify`.

    ``AUTO``: the first way that is possible.
    """

    AUTO = "auto"
    EPOCH = "epoch"
    COMPANION = "companion"
    TIMEOUT = "timeout"


class Opens(enum.Enum):
    """Whether the kernel sends OPEN for files and directories: see :mod:`dboxfs.vfs.unopened`.

    ``AUTO``: not for a read-only mount of an mdbox, if that is possible. ``CLASSIC``: yes. ``NONE``: no; the
    mount fails where that is impossible.
    """

    AUTO = "auto"
    CLASSIC = "classic"
    NONE = "none"


class View(enum.Enum):
    """How the store is shown: one file a message, or in a view of :mod:`dboxfs.vfs.views`."""

    EML = "eml"
    MAILDIR = "maildir"
    MH = "mh"


class Nesting(enum.Enum):
    """Where the Maildir view has child mailboxes: nested, or all beside INBOX with a dot (Maildir++)."""

    VERBATIM = "verbatim"
    PLUS_PLUS = "++"


class Charset(enum.Enum):
    """How the Maildir view writes names of mailboxes: UTF-8, or modified UTF-7 as IMAP does."""

    UTF8 = "utf8"
    MUTF7 = "mutf7"


class FullNames(Struct, frozen=True):
    """The whole name of a mailbox, as IMAP clients have it: fields as in :class:`ViewOptions`."""

    separator: str = "/"
    prefix: str = ""
    has_inbox: bool = True

    def of(self, store: Store, folder: Folder) -> str:
        """The full name of *folder*."""
        name = store.display_name(folder, self.separator)
        return name if self.has_inbox and folder.name == "INBOX" else self.prefix + name


class ViewOptions(Struct, frozen=True):
    """How files are shown.  ``uid``, ``gid``: owner, None: the store's.

    ``umask``: permission bits taken away.  ``file_mode``, ``directory_mode``: permission bits before that,
    None: those that the owner needs.  ``separator``: between the parts of ``user.dbox.mailbox``.
    ``prefix``: of the namespace, stands before ``user.dbox.mailbox`` of all mailboxes but, where
    ``has_inbox``, the INBOX.  ``writable``: the modes allow the owner to write.
    ``view``, and what only the Maildir view has: ``nesting``, ``charset``.
    """

    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    file_mode: int | None = None
    directory_mode: int | None = None
    writable: bool = False
    separator: str = "/"
    prefix: str = ""
    has_inbox: bool = True
    view: View = View.EML
    nesting: Nesting = Nesting.VERBATIM
    charset: Charset = Charset.UTF8

    @property
    def full_names(self) -> FullNames:
        """Makes the value of ``user.dbox.mailbox``."""
        return FullNames(self.separator, self.prefix, self.has_inbox)


class ShownGeneration(Struct, frozen=True):
    """A generation: its name, what selects it with ``-o at=``, whether the mount shows it."""

    name: str
    at: str
    shown: bool

    @property
    def content(self) -> bytes:
        """What its file tells."""
        return (
            json.dumps({"generation": self.name, "shown": self.shown, "at": self.at}).encode("ascii") + b"\n"
        )


class MountOptions(Struct, frozen=True):
    """The options of a mount.

    ``fast_loop``: use the stand-in of :mod:`dboxfs.fuse.loop`.  ``fuse``: further options for libfuse.
    ``write``: how the store is written; None: read-only.  ``dbox_version``: of new messages; None: the
    store's.  ``force``: write even if Dovecot couldn't read the result, or mail seems to be hidden.
    ``restore``: files are staged, and become messages with a commit (:mod:`dboxfs.vfs.staging`).
    ``entries``: how names are invalidated. ``opens``: whether the kernel sends OPEN.
    ``cache_dir``: where sizes are kept for the next mount; None: they aren't.  ``table_size``: the number of
    messages whose parsed records are kept in memory.  ``metrics``: the address where they can be read; None:
    only in the control directory.  ``generations``: of the archive that is mounted.
    """

    allow_other: bool = False
    fast_loop: bool = True
    view: ViewOptions = field(default_factory=ViewOptions)
    fuse: tuple[str, ...] = ()
    write: WriteOptions | None = None
    dbox_version: int | None = None
    restore: bool = False
    force: bool = False
    entries: Entries = Entries.AUTO
    opens: Opens = Opens.AUTO
    cache_dir: str | None = None
    table_size: int = 10_000
    metrics: Address | None = None
    generations: tuple[ShownGeneration, ...] = ()

    @property
    def is_open_to_others(self) -> bool:
        """Others than the user who mounts may look, or something is written to the store."""
        return self.allow_other or self.write is not None


def wants_no_open(options: MountOptions, kind: Kind | None) -> bool:
    """Whether the mount of a *kind* of store shall work without OPEN, if that is possible.

    For an sdbox only with ``-o open=none``: there a message that is expunged before its first READ is gone
    with its file, unless an OPEN has opened it.

    :param kind: None: there may be stores of both kinds.
    """
    if options.write is not None:
        return False
    return options.opens is Opens.NONE or (options.opens is Opens.AUTO and kind is Kind.MDBOX)


def wants_companion(options: MountOptions, kind: Kind | None) -> bool:
    """Whether a companion has to be forked for the mount of a *kind* of store.

    It invalidates names on a kernel without epochs, which only the kernel's version can tell before the mount
    is made; and it ends the connection of a daemon that was killed (:mod:`dboxfs.fuse.pusher`).
    """
    if wants_no_open(options, kind):
        return True
    if options.entries is not Entries.AUTO:
        return options.entries is Entries.COMPANION
    version = [int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit()]
    return tuple(version) < _EPOCH_SINCE
