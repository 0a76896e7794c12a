"""What the daemon's cache keeps of messages that are read often, while somebody reads everything else once.

No mount: the kernel would keep what it was given.  Compressed messages are read through the store, as the
mount would read them, because only those are in the daemon's cache:

1. each message of the hot set twice,
2. all other messages once, and then, up to the size of the scan, as many pages of the same sizes under new
   names (nobody has a store of 10 GB to spare, nor the minutes to make one),
3. the hot set again: the row is the share of its pages that were in the cache.

Then the same with an LRU of the same size in the place of the cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from pathlib import Path

import trio

from bench.errors import BenchError
from bench.goals import HOT_CELL, HOT_LRU_CELL
from bench.mail import Corpus
from bench.run import Bench
from bench.stores import build_compressed, location_of
from dboxfs.fsapi import FileSystem, PageCache, ThreadsDriver
from dboxfs.store import Mailbox, open_store, parse_location
from dboxfs.store.body import TEXT_PAGE

HOT = 1000
CACHE = 64 << 20
SCAN = 10 * 10**9

_FULL = 20_000  # messages of a bench in which the above holds; smaller ones have less of everything
_OTHERS = 4 * HOT
_FOLDER = "INBOX"


class Lru(PageCache):
    """The least recently used page goes: what the cache is compared with.  Counts pages as its base does."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._room = size
        self._held: OrderedDict[tuple[Hashable, int], bytes] = OrderedDict()
        self._found = 0
        self._missed = 0

    def get(self, key: Hashable, page_no: int) -> bytes | None:
        data = self._held.get((key, page_no))
        if data is None:
            self._missed += 1
            return None
        self._found += 1
        self._held.move_to_end((key, page_no))
        return data

    def put(
        self, key: Hashable, page_no: int, data: bytes, *, prefetched: bool = False, used: bool = False
    ) -> None:
        old = self._held.pop((key, page_no), b"")
        self._held[key, page_no] = data
        self._room += len(old) - len(data)
        while self._room < 0:
            self._room += len(self._held.popitem(last=False)[1])

    def passed(self, key: Hashable, page_no: int) -> None:
        """Of no interest to an LRU."""

    def stats(self) -> dict[str, int | float]:
        return {"hits": self._found, "misses": self._missed}


def hot_set(bench: Bench) -> None:
    """14: the hit rate of the hot set after the scan, with the cache and with an LRU."""
    part = min(1.0, len(bench.corpus) / _FULL)
    hot = max(2, round(HOT * part))
    corpus = Corpus(hot + round(_OTHERS * part), bench.seed + 1)
    root, seconds = build_compressed(bench.work, corpus, bench.doveadm, bench.seed + 1)
    bench.stores.seconds["zstd"] = seconds
    for cell, cache in (
        (HOT_CELL, PageCache(round(CACHE * part))),
        (HOT_LRU_CELL, Lru(round(CACHE * part))),
    ):
        rate = trio.run(_hit_rate, root, cache, hot, round(SCAN * part))
        bench.cells.values.setdefault(cell, []).append(100 * rate)


async def _hit_rate(root: Path, cache: PageCache, hot: int, scan: int) -> float:
    async with FileSystem(ThreadsDriver()) as fs:
        fs.engine.cache = cache
        async with open_store(fs, parse_location(location_of(root)), follow=False) as store:
            boxes = [folder.mailbox for folder in store.folders.values() if folder.mailbox is not None]
            messages = [(box, uid) for box in boxes for uid in box.uids.tolist()]
            messages.sort(key=lambda message: message[0].name != _FOLDER)
            chosen, others = messages[:hot], messages[hot:]
            for _ in range(2):
                for message in chosen:
                    await _read(*message)
            sizes = [await _read(*message) for message in others]
            await _scan_pages(cache, sizes, scan - sum(sizes))
            before = cache.stats()
            for message in chosen:
                await _read(*message)
            after = cache.stats()
    hits, misses = after["hits"] - before["hits"], after["misses"] - before["misses"]
    if not hits + misses:
        raise BenchError(f"{root}: no page of its messages was asked for; is it compressed?")
    return hits / (hits + misses)


async def _read(box: Mailbox, uid: int) -> int:
    """Read a message as a mount would; its size."""
    body = await box.open(uid)
    try:
        return len(await body.read(body.size, 0))
    finally:
        body.close()


async def _scan_pages(cache: PageCache, sizes: list[int], left: int) -> None:
    """Ask for the pages of messages that nobody has read before and put them there, as a body does."""
    page = bytes(TEXT_PAGE)
    number = 0
    while left > 0 and sizes:
        size = sizes[number % len(sizes)]
        for at in range(0, size, TEXT_PAGE):
            if cache.get(number, at // TEXT_PAGE) is None:
                cache.put(number, at // TEXT_PAGE, page[: min(TEXT_PAGE, size - at)])
            if at:
                cache.passed(number, at // TEXT_PAGE - 1)
        left -= size
        number += 1
    await trio.lowlevel.checkpoint()
