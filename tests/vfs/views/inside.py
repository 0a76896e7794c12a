"""A store in memory, shown as Maildirs or as MH folders: :mod:`tests.vfs.inside` with the view around it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from dboxfs.fsapi import Driver
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.store import Kind
from dboxfs.store.write import NewMessage
from dboxfs.vfs.host import Kernel
from dboxfs.vfs.options import Charset, Nesting, View, ViewOptions
from dboxfs.vfs.views.maildir import MaildirView
from dboxfs.vfs.views.told_names import ViewKernel
from dboxfs.vfs.views.views import maildir_view, mh_view, writable_maildir_view, writable_mh_view
from tests.vfs.inside import JULY, Mounted, Program, mounted


@dataclass(slots=True)
class InView:
    """A mounted store.

    :ivar inner: the same mount without the view.  :ivar p: a process that uses it.
    """

    inner: Mounted
    p: Program

    def program(self) -> Program:
        """Another process that uses the mount."""
        return Program(self.p.vfs)

    async def came(
        self, text: bytes, flags: int = 0, keywords: tuple[str, ...] = (), box: str = "INBOX"
    ) -> int:
        """Somebody else saves a message; gives its uid."""
        saved = await self.inner.others.save(box, [NewMessage(text, JULY, flags, keywords)])
        await self.inner.follow(box)
        return saved.uids[0]

    async def flag(self, uid: int, add: int = 0, remove: int = 0, box: str = "INBOX") -> None:
        """Somebody else changes the flags of a message."""
        await self.inner.others.set_flags(box, [uid], add=add, remove=remove)
        await self.inner.follow(box)


@dataclass(slots=True)
class InMaildir(InView):
    """A mounted store with ``view=maildir``."""

    view: MaildirView

    async def cur(self, box: str = "INBOX") -> list[str]:
        return await self.p.names(f"{box}/cur")

    async def new(self, box: str = "INBOX") -> list[str]:
        return await self.p.names(f"{box}/new")


@asynccontextmanager
async def maildir(
    kind: Kind = Kind.SDBOX,
    nesting: Nesting = Nesting.VERBATIM,
    charset: Charset = Charset.UTF8,
    driver: MemoryDriver | None = None,
    directory: Path | None = None,
    faults: Callable[[Driver], Driver] | None = None,
) -> AsyncIterator[InMaildir]:
    """A new store in memory, or the one that *driver* has, mounted as Maildirs.

    :param directory: where foreign files are; None: the mount is read-only.
    """
    kernels: list[ViewKernel] = []

    def between(told: Kernel) -> ViewKernel:
        kernels.append(ViewKernel(told))
        return kernels[0]

    options = ViewOptions(view=View.MAILDIR, nesting=nesting, charset=charset)
    async with mounted(kind, driver=driver, kernel=between, faults=faults) as inner:
        view = maildir_view(inner.reading, inner.vfs, options, kernels[0], inner.name_reader)
        if directory is None:
            yield InMaildir(inner, Program(view), view)
        else:
            yield InMaildir(inner, Program(writable_maildir_view(view, inner.vfs, str(directory))), view)


@asynccontextmanager
async def mh(
    kind: Kind = Kind.SDBOX,
    driver: MemoryDriver | None = None,
    directory: Path | None = None,
    faults: Callable[[Driver], Driver] | None = None,
) -> AsyncIterator[InView]:
    """The same mounted as MH folders.

    :param directory: where foreign files are; None: the mount is read-only.
    """
    kernels: list[ViewKernel] = []

    def between(told: Kernel) -> ViewKernel:
        kernels.append(ViewKernel(told))
        return kernels[0]

    async with mounted(kind, driver=driver, kernel=between, faults=faults) as inner:
        view = mh_view(inner.reading, inner.vfs, kernels[0])
        if directory is None:
            yield InView(inner, Program(view))
        else:
            yield InView(inner, Program(writable_mh_view(view, inner.vfs, str(directory))))
