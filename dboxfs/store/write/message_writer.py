"""The interface that sdbox and mdbox have in common for :class:`~dboxfs.store.write.writer.StoreWriter`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from dboxfs.store.mdbox.expunged import Expunged
from dboxfs.store.write.message import CopyAs, NewMessage
from dboxfs.store.write.naming import Wanted
from dboxfs.store.write.results import Copied, Saved


class MessageWriter(Protocol):
    """The changes of messages that depend on a store's format.  uids are ascending, each once, and some."""

    @property
    def groups(self) -> int:
        """How many groups of saves there were."""
        ...

    async def add(self, name: str, messages: Sequence[NewMessage]) -> Saved:
        """Bring messages into a mailbox, in one transaction: ``StoreWriter.save``."""
        ...

    async def copy(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        like: Mapping[int, CopyAs] | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """``StoreWriter.copy``."""
        ...

    async def move(
        self,
        source: str,
        uids: Sequence[int],
        target: str,
        *,
        replaces: int | None = None,
        named: Wanted | None = None,
    ) -> Copied:
        """``StoreWriter.move``."""
        ...

    async def undelete(
        self, name: str, messages: Sequence[Expunged], *, named: Wanted | None = None
    ) -> Copied:
        """``StoreWriter.undelete``."""
        ...

    async def expunge(
        self,
        name: str,
        uids: Sequence[int] | None,
        *,
        heir: int | None = None,
        named: Wanted | None = None,
        beside: bool = False,
    ) -> list[int]:
        """Expunge messages (None: all), and execute the requests of other programs.

        :param heir: takes the place of the only one of *uids*, if that is there.
        :param named: the name that the heir shall have.
        :param beside: a Dovecot may be there, which does what it does better (PROTOCOL section 8).
        """
        ...
