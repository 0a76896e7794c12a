"""A site in memory, asked as the kernel asks it (:mod:`tests.vfs.inside` for one store)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
from msgspec.structs import replace

from dboxfs.errors import NoSuchUser
from dboxfs.fsapi import Driver, FileSystem
from dboxfs.fsapi.drivers.memory import MemoryDriver
from dboxfs.fsapi.drivers.memory_tree import Tree
from dboxfs.store import Kind, Location
from dboxfs.store.write import NewMessage, StoreWriter, WriteOptions, init_store
from dboxfs.vfs.host import Host
from dboxfs.vfs.options import MountOptions
from dboxfs.vfs.site.many import ManyStores, ServingMany
from dboxfs.vfs.site.site import Site
from dboxfs.vfs.site.stores import SiteLimits
from dboxfs.vfs.site.user import SiteUser
from tests.vfs.inside import ALONE, JULY, Program, Told

VMAIL = "/nowhere/on/this/disk/vmail"


@dataclass(slots=True)
class Listed:
    """A source that says what a test says."""

    locations: dict[str, Location]
    described: str = "users of a test"
    place: str = "/"
    kind: Kind | None = None

    def names(self) -> Sequence[str]:
        return list(self.locations)

    def locate(self, name: str, *, damaged: bool = False) -> Location:
        if name not in self.locations:
            raise NoSuchUser(f"{name}: no such user")
        return self.locations[name]


def text_of(name: str) -> bytes:
    """The message that each user of :func:`make_site` has in INBOX."""
    return f"Subject: for {name!r}\n\nhello\n".encode("utf-8", "backslashreplace")


async def make_site(driver: MemoryDriver, names: Sequence[str], kind: Kind) -> dict[str, Location]:
    """A store for each user: INBOX with one message (uid 1)."""
    driver.make_dirs(VMAIL)
    found = {}
    async with FileSystem(driver) as fs:
        for number, name in enumerate(names):
            found[name] = location = Location(kind, f"{VMAIL}/{number}")
            await init_store(fs, location, options=ALONE)
            writer = StoreWriter(fs, location, await fs.stat(location.root), ALONE)
            await writer.save("INBOX", [NewMessage(text_of(name), JULY)])
    return found


@dataclass(slots=True)
class SiteMounted:
    """A site that is mounted."""

    tree: Tree
    fs: FileSystem
    source: Listed
    serving: ServingMany
    told: Told
    requests: dict[str, int] = field(default_factory=dict)

    @property
    def site(self) -> Site:
        return self.serving.site

    @property
    def users(self) -> Mapping[str, SiteUser]:
        return self.site.users.all

    @property
    def open_now(self) -> list[str]:
        """The users whose store is open."""
        return sorted(user.name for user in self.site.stores.users)

    def program(self) -> Program:
        """A process that uses the mount."""
        return Program(self.site)

    async def others(self, name: str) -> StoreWriter:
        """Another program that writes the store of a user."""
        location = self.source.locations[name]
        return StoreWriter(self.fs, location, await self.fs.stat(location.root), ALONE)


@asynccontextmanager
async def site_mounted(
    names: Sequence[str] = ("ann", "bob"),
    kind: Kind = Kind.MDBOX,
    *,
    write: WriteOptions | None = None,
    limits: SiteLimits | None = None,
    by_domain: bool = False,
    options: MountOptions | None = None,
    driver: MemoryDriver | None = None,
    locations: dict[str, Location] | None = None,
    faults: Callable[[Driver], Driver] | None = None,
) -> AsyncIterator[SiteMounted]:
    """A site of new stores, or of those that *driver* has at *locations*."""
    if driver is None:
        memory = MemoryDriver()
        locations = await make_site(memory, names, kind)
        driver = MemoryDriver(tree=memory.tree)
    source, told, requests = Listed(dict(locations or {})), Told(), dict[str, int]()
    given = replace(options or MountOptions(), write=write)
    async with FileSystem(faults(driver) if faults is not None else driver) as fs:

        def host(nursery: trio.Nursery) -> Host:
            return Host(nursery.start_soon, told, requests)

        many = ManyStores(fs, source, given, limits or SiteLimits(), by_domain)
        async with many.serving(host) as serving:
            assert isinstance(serving, ServingMany)
            serving.start(None)
            yield SiteMounted(driver.tree, fs, source, serving, told, requests)
            await serving.finish()
