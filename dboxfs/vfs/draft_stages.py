"""The life of a draft as one table: every stage and every event.

Only a :class:`DraftEvent` changes the stage of a draft (in its :class:`Standing`).  The table has every stage
and every event; a pair that it leaves out can't happen.  Only the methods of
:class:`~dboxfs.vfs.draft.Draft` make events.

==============  ====================================================================================
stage           meaning
==============  ====================================================================================
``NEW``         a file with a plain name, which is no message.  Its last close makes it one
``TEMPORARY``   the same with a name that begins with a dot.  A rename to a name without a dot makes it one
``GHOST``       a new file that was closed without a byte: only the process that made it finds it
``NAMELESS``    another file was given its name: it becomes a message of its own, ``<uid>.eml``
``STAGED``      a new file that was closed (``-o restore``): the commit of its mailbox makes it one
``MESSAGE``     it is message ``uid``, or replaces it with the next commit
``REMOVED``     nothing of it will be committed.  A program that has it open goes on reading it
==============  ====================================================================================

==============  ========  ===========  ========  ==========  =========  =========  =========
event           NEW       TEMPORARY    GHOST     NAMELESS    STAGED     MESSAGE    REMOVED
==============  ========  ===========  ========  ==========  =========  =========  =========
``OPENED``      .         .            NEW       .           .          .          .
``EMPTY``       GHOST     -            -         -           -          -          -
``CLOSED``      STAGED    -            -         -           .          -          .
``COMMITTED``   MESSAGE   MESSAGE      -         MESSAGE     MESSAGE    .          .
``MOVED``       -         -            -         -           -          .          .
``EXPUNGED``    -         -            -         -           -          by name    .
``TO_PLAIN``    .         NEW          .         -           .          -          -
``TO_DOT``      TEMPORARY .            TEMPORARY -           TEMPORARY  -          -
``ONTO``        MESSAGE   MESSAGE      REMOVED   -           -          -          -
``NAME_TAKEN``  NAMELESS  REMOVED      REMOVED   .           REMOVED    NAMELESS   .
``REMOVED``     REMOVED   REMOVED      REMOVED   REMOVED     REMOVED    REMOVED    .
``KEPT``        -         -            -         -           -          -          by uid
==============  ========  ===========  ========  ==========  =========  =========  =========

(``.`` stays, ``-`` can't happen.  *By name*: ``TEMPORARY`` if the name begins with a dot, else ``NEW``.
*By uid*: ``MESSAGE``, but ``NAMELESS`` if another file was given its name, and replaced its message,
meanwhile.)

Concurrency: a :class:`Standing` is an immutable value; no method awaits.
"""

from __future__ import annotations

import enum

from msgspec import Struct
from msgspec.structs import replace

from dboxfs.store import Folder


class Stage(enum.Enum):
    """The stage of a draft: a column of the table."""

    NEW = enum.auto()
    TEMPORARY = enum.auto()
    GHOST = enum.auto()
    NAMELESS = enum.auto()
    STAGED = enum.auto()
    MESSAGE = enum.auto()
    REMOVED = enum.auto()


class DraftEvent(enum.Enum):
    """An event in the life of a draft: a row of the table.

    ``OPENED``: a process has opened it.  ``EMPTY``: its last descriptor was closed, and it has no byte.
    ``CLOSED``: the same with bytes, where files are staged.
    ``COMMITTED``: its bytes are message ``uid``.  ``MOVED``: its message has another uid or name, or is in
    another mailbox.  ``EXPUNGED``: another process has expunged its message.  ``TO_PLAIN``, ``TO_DOT``: it
    was renamed to a free name, without or with a dot.  ``ONTO``: it was renamed over a message.
    ``NAME_TAKEN``: another file was given its name.  ``REMOVED``: it, or its message, was removed through
    this mount.  ``KEPT``: that removal has failed.
    """

    OPENED = enum.auto()
    EMPTY = enum.auto()
    CLOSED = enum.auto()
    COMMITTED = enum.auto()
    MOVED = enum.auto()
    EXPUNGED = enum.auto()
    TO_PLAIN = enum.auto()
    TO_DOT = enum.auto()
    ONTO = enum.auto()
    NAME_TAKEN = enum.auto()
    REMOVED = enum.auto()
    KEPT = enum.auto()


_NEW, _DOT, _GHOST, _NAMELESS, _STAGED, _MESSAGE, _REMOVED = Stage

TABLE: dict[DraftEvent, dict[Stage, Stage]] = {
    DraftEvent.OPENED: {stage: stage for stage in Stage} | {_GHOST: _NEW},
    DraftEvent.EMPTY: {_NEW: _GHOST},
    DraftEvent.CLOSED: {_NEW: _STAGED, _STAGED: _STAGED, _REMOVED: _REMOVED},
    DraftEvent.COMMITTED: {
        _NEW: _MESSAGE, _DOT: _MESSAGE, _NAMELESS: _MESSAGE, _STAGED: _MESSAGE, _MESSAGE: _MESSAGE,
        _REMOVED: _REMOVED,
    },
    DraftEvent.MOVED: {_MESSAGE: _MESSAGE, _REMOVED: _REMOVED},
    DraftEvent.EXPUNGED: {_MESSAGE: _NEW, _REMOVED: _REMOVED},
    DraftEvent.TO_PLAIN: {_NEW: _NEW, _DOT: _NEW, _GHOST: _GHOST, _STAGED: _STAGED},
    DraftEvent.TO_DOT: {_NEW: _DOT, _DOT: _DOT, _GHOST: _DOT, _STAGED: _DOT},
    DraftEvent.ONTO: {_NEW: _MESSAGE, _DOT: _MESSAGE, _GHOST: _REMOVED},
    DraftEvent.NAME_TAKEN: {
        _NEW: _NAMELESS, _DOT: _REMOVED, _GHOST: _REMOVED, _NAMELESS: _NAMELESS, _STAGED: _REMOVED,
        _MESSAGE: _NAMELESS, _REMOVED: _REMOVED,
    },
    DraftEvent.REMOVED: dict.fromkeys(Stage, _REMOVED),
    DraftEvent.KEPT: {_REMOVED: _MESSAGE},
}  # fmt: skip
"""The stage that an event leads to, by event and stage."""


class Standing(Struct, frozen=True):
    """The stage of a draft, its place, and its message.

    ``folder``, ``name``: where the message is, or will be.  ``guid``: of the mailbox that it was opened in,
    which may have been renamed since; None: not known.  ``uid``: the message that it is, or replaces; None:
    none yet.  ``exclusive``: made with O_EXCL, so it replaces no message.  ``takes_place``: it was renamed to
    its name, so it replaces the message that has this name at the commit.
    """

    stage: Stage
    folder: Folder
    name: bytes
    guid: bytes | None
    uid: int | None = None
    exclusive: bool = False
    takes_place: bool = False

    @classmethod
    def of(cls, folder: Folder, name: bytes, uid: int | None = None, *, exclusive: bool = False) -> Standing:
        """The standing of a file that is opened: on message *uid*, or new."""
        stage = _MESSAGE if uid is not None else _DOT if name.startswith(b".") else _NEW
        return cls(stage, folder, name, guid_of(folder), uid, exclusive)

    def after(self, event: DraftEvent) -> Standing:
        """The standing with the stage that *event* leads to.

        :raises KeyError: the table doesn't have that event in this stage.
        """
        stage = TABLE[event][self.stage]
        if event is DraftEvent.EXPUNGED and stage is _NEW and self.name.startswith(b"."):
            stage = _DOT
        if event is DraftEvent.KEPT and self.uid is None:
            stage = _NAMELESS
        return replace(self, stage=stage)


def guid_of(folder: Folder) -> bytes | None:
    return folder.mailbox.guid if folder.mailbox is not None else None
