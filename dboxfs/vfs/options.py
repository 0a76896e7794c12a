"""What a mount may be told: how the tree is shown and to whom, what the kernel is given, how the store is
written.

Nothing that is imported here needs FUSE: the command line reads options on a machine without it, too.
"""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field

from dboxfs.store import Folder, Kind, Store
from dboxfs.store.write import WriteOptions
from dboxfs.util.text_endpoint import Address

_EPOCH_SINCE = (6, 16)


class Entries(enum.Enum):
    """How the kernel hears of names that mean something else: see :mod:`dboxfs.fuse.notify`.

    ``AUTO``: the first that can be had.
    """

    AUTO = "auto"
    EPOCH = "epoch"
    COMPANION = "companion"
    TIMEOUT = "timeout"


class Opens(enum.Enum):
    """Whether the kernel opens files and directories: see :mod:`dboxfs.vfs.unopened`.

    ``AUTO``: not in a read-only mount of an mdbox that can do without. ``CLASSIC``: it does. ``NONE``: it
    does not, or there is no mount.
    """

    AUTO = "auto"
    CLASSIC = "classic"
    NONE = "none"


class View(enum.Enum):
    """What the store looks like: one file a message, or :mod:`dboxfs.vfs.views`."""

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


@dataclass(frozen=True, slots=True)
class FullNames:
    """The whole name of a mailbox, as IMAP clients have it: fields as in :class:`ViewOptions`."""

    separator: str = "/"
    prefix: str = ""
    has_inbox: bool = True

    def of(self, store: Store, folder: Folder) -> str:
        """The full name of *folder*."""
        name = store.display_name(folder, self.separator)
        return name if self.has_inbox and folder.name == "INBOX" else self.prefix + name


@dataclass(frozen=True, slots=True)
class ViewOptions:
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
        """What ``user.dbox.mailbox`` says."""
        return FullNames(self.separator, self.prefix, self.has_inbox)


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What is given to the kernel and to the view.

    ``fast_loop``: use the stand-in of :mod:`dboxfs.fuse.loop`.  ``fuse``: further options for libfuse.
    ``write``: how the store is written; None: not at all.  ``dbox_version``: of new messages; None: what the
    store says.  ``force``: also where a Dovecot can't read it, and where mail seems to be hidden.
    ``restore``: files are staged, and messages when the mount ends.
    ``entries``: how the kernel hears of names. ``opens``: whether it opens files.
    ``cache_dir``: where sizes are kept for the next mount; None: nowhere.  ``table_size``: of how many
    messages parsed records are kept in memory.  ``metrics``: where they are told; None: nowhere but in the
    mount.
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


def wants_no_open(options: MountOptions, kind: Kind | None) -> bool:
    """Whether the kernel shall open nothing in the mount of a *kind* of store, if it can do without.

    In an sdbox only if it is asked for: there a message of which nothing was read before it was expunged is
    gone with its file, unless the kernel opens it.

    :param kind: None: there may be stores of both kinds.
    """
    if options.write is not None:
        return False
    return options.opens is Opens.NONE or (options.opens is Opens.AUTO and kind is Kind.MDBOX)


def wants_companion(options: MountOptions, kind: Kind | None) -> bool:
    """Whether a companion has to be forked for the mount of a *kind* of store: to tell names, by what the
    kernel calls itself (it can't be asked before the mount is made), or to end the connection of a daemon
    that was killed (:mod:`dboxfs.fuse.pusher`).
    """
    if wants_no_open(options, kind):
        return True
    if options.entries is not Entries.AUTO:
        return options.entries is Entries.COMPANION
    version = [int(part) for part in os.uname().release.split("-")[0].split(".")[:2] if part.isdigit()]
    return tuple(version) < _EPOCH_SINCE
