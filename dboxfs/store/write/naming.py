"""Names for messages that are about to be written.

A store has no names for messages, but a mount does.  While a writer holds the lock of the mailbox, and before
any reader can see the message, it tells the mount the message's uid.  So a message never appears under
another name than its own, and two mounts that give the same name do so one after the other.

A change that depends on the name of a message (:mod:`dboxfs.store.write.meaning`) asks the mount for that
name, under the same lock: another mount may have given the message another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol

from msgspec import Struct

from dboxfs.errors import DboxfsError
from dboxfs.fsapi.ops import FileAsSeen
from dboxfs.store.indexes.in_turn import Afterwards
from dboxfs.store.write.meaning import called_message
from dboxfs.store.write_errors import Superseded


class Wanted(Struct, eq=False):
    """The name that a new message shall have.

    :ivar name: as the kernel has it.
    :ivar holder: uid of the message that has the name and that the new one replaces; None: no message has the
        name.
    :ivar uid: of the new message, once that is known; 0: not yet.
    :ivar confirmed: the job that has made the message durable has also confirmed its name.
    """

    name: bytes
    holder: int | None = None
    uid: int = 0
    confirmed: bool = False


class Namer(Protocol):
    """The keeper of the names of messages: the mount."""

    async def begin(
        self, mailbox: str, wanted: Sequence[Wanted], there: Callable[[Iterable[int]], Sequence[int]]
    ) -> list[DboxfsError | None]:
        """Messages with these uids (``Wanted.uid``) are about to be written; the lock of the mailbox is held.

        May be called again with another uid.  Gives an error for each message that is refused and will not be
        saved; None for the others.

        :param mailbox: its storage name.
        :param there: a function that gives those of some uids that the mailbox has.
        """

    def confirming(self, mailbox: str, wanted: Sequence[Wanted]) -> AbstractContextManager[Afterwards | None]:
        """Steps that confirm announced names, for the end of the job that makes their messages durable.

        They set ``Wanted.confirmed``.  The job is begun and over inside the context.  None: the names have to
        be confirmed in another way.
        """

    async def name_of(
        self, mailbox: str, uid: int, there: Callable[[Iterable[int]], Sequence[int]]
    ) -> bytes | None:
        """The name of a message of the mailbox now, whose lock is held; None: the names are not known."""

    def name_as_seen(self, mailbox: str, uid: int) -> tuple[bytes, FileAsSeen] | None:
        """The name of a message as long as its mailbox and the file are unchanged; None: not known."""


@contextmanager
def confirming(
    namer: Namer | None, wanted: Mapping[str, Sequence[Wanted | None]]
) -> Iterator[list[Afterwards]]:
    """:meth:`Namer.confirming` of several mailboxes: the names of their new messages, by mailbox."""
    with ExitStack() as stack:
        found = []
        for mailbox, names in wanted.items() if namer is not None else ():
            asked = [some for some in names if some is not None]
            if namer is not None and asked:
                found.append(stack.enter_context(namer.confirming(mailbox, asked)))
        yield [steps for steps in found if steps is not None]


async def check_called(
    namer: Namer | None, mailbox: str, there: Callable[[Iterable[int]], Sequence[int]]
) -> None:
    """Check that the message that the caller has named still has that name; the lock of *mailbox* is held.

    :param there: a function that gives those of some uids that the mailbox has.
    :raises Superseded: another mount has given it another name.
    """
    asked = called_message()
    if namer is None or asked is None or asked.mailbox != mailbox or not there([asked.uid]):
        return
    name = await namer.name_of(mailbox, asked.uid, there)
    if name not in (None, asked.name):
        raise Superseded(f"uid {asked.uid} is called {name!r} by now, and not {asked.name!r}")
