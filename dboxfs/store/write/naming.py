"""Names for messages that are about to come.

A store knows no names, a mount does.  A writer tells it the uid that a message will have while it holds the
lock of the mailbox, and before anybody can see the message: so a message never appears under a name that is
not its own, and two mounts that give the same name come one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dboxfs.errors import DboxfsError


@dataclass(eq=False, slots=True)
class Wanted:
    """The name that a new message shall have.

    :ivar name: as the kernel has it.
    :ivar holder: uid of the message that has the name, and whose place the new one takes; None: nobody has.
    :ivar uid: of the new message, once that is known; 0: not yet.
    """

    name: bytes
    holder: int | None = None
    uid: int = 0


class Namer(Protocol):
    """Who knows the names of messages."""

    async def begin(
        self, mailbox: str, wanted: Sequence[Wanted], there: Callable[[Iterable[int]], Sequence[int]]
    ) -> list[DboxfsError | None]:
        """Messages with these uids (``Wanted.uid``) will come; the lock of the mailbox is held.

        May be called again with another uid.  Gives for each what is wrong: it will not be saved then.

        :param mailbox: its storage name.
        :param there: those of some uids that the mailbox has.
        """
