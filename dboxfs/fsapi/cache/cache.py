"""The page cache: the daemon's own memory for bytes that the kernel's page cache can't hold.

**Purpose.**  The kernel caches files, and FUSE caches the bytes that were read from the mount.  This cache
holds the rest: readahead on its way to a reader, decompressed messages, and storage whose files can't be read
from the kernel's cache without waiting.  A page is any piece of bytes, named by ``(key, page_no)``; a key is
any hashable object that stands for an open file or a message.  All pages together stay within one budget of
bytes.

**Which page goes when the budget is full?**  The usual rule, "the one that was used longest ago" (LRU), fails
when a mailstore is backed up: one pass over 10 GB pushes out every page that people use.  So each page has a
**weight from 0 to 10**, and the page with the lowest weight goes first, among equals the oldest:

==========  ============================================================================================
weight      how a page comes to it
==========  ============================================================================================
5           every new page starts here, in the centre; its first use is the one for which it was brought,
            and changes nothing
6 to 10     *used again*: the second use lifts it above the centre, each further use by one
2           *passed* (read-behind depression): a sequential reader has gone on to the next page, and the
            page was used only once
0           *handed over*: the kernel holds the whole page now, and it was used only once
==========  ============================================================================================

So pages that were read once leave before pages that were used twice, and a scan of any length, whose pages
have weights from 0 to 5, can't push out a page above 5 (but for the eighth of rule 1 below).  Uses of one
page that follow each other directly count as one: reading a page in ten small pieces is not ten uses.

**Decay.**  A page that was popular last week must make room one day.  A clock hand goes round the pages above
the centre and takes one from the weight of each page that was not used since the hand's last visit.  The hand
moves only when some page above the centre *is* used, or when a page comes back that was evicted a short while
ago: idleness is measured against the demand for memory, not against the wall clock or the length of a scan.
Without demand nothing decays, because no other page needs the room.

**Thrash protection**, three rules.  (1) One eighth of the budget belongs to pages in the centre, whatever the
weights of the others: otherwise new pages would push each other out before their reader comes.  (2) The
cache remembers the names of evicted pages for a while ("ghosts"); a page that comes back while its ghost is
there was evicted too early, counts as used twice, and starts at 6.  In this way a new hot set takes the place
of an old one.  (3) Readahead that no reader has used yet, here or on its way, may fill half of the room that
other pages in and above the centre leave, and an eighth of the budget at least (:meth:`prefetch_room`).

**Pressure** is measured: ``pressure_reuse`` is the share of the recent uses that met pages above the centre
or ghosts (a scan adds nothing to it), ``pressure_dirty`` the share of unwritten bytes among all bytes in the
budget.  Unwritten bytes of writers count against the budget (:meth:`reserve`).

**Cost.**  Every operation is O(1), amortised: one ordered dictionary for each of the 11 weights, one for the
clock hand, one for the ghosts.  Everything runs on the event loop's thread; nothing is locked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

from dboxfs.fsapi.cache.ksm import Ksm

CENTRE = 5
HIGHEST_SCORE = 10
PASSED = 2
HANDED = 0

_PAGE_OVERHEAD = 256
"""Bytes that a page costs beside its data: objects and table entries (measured: some 250)."""
_CENTRE_SHARE = 8
_WINDOW = 1024
_GHOSTS = 4096
_BY_WEIGHT = tuple(range(HIGHEST_SCORE + 1))
_CENTRE_LATER = (*range(CENTRE), *range(CENTRE + 1, HIGHEST_SCORE + 1), CENTRE)


class _Page:
    """One page; ``uses`` counts to 2 and stays there, ``recent``: used since the hand came by.

    ``mergeable``: its memory is marked for the kernel (``ksm.py``).
    """

    __slots__ = ("data", "key", "mergeable", "number", "prefetched", "recent", "uses", "weight")

    def __init__(self, key: Hashable, number: int, data: bytes, prefetched: bool) -> None:
        self.key = key
        self.number = number
        self.data = data
        self.weight = CENTRE
        self.uses = 0
        self.recent = False
        self.mergeable = False
        self.prefetched = prefetched


class PageCache:
    """Pages of bytes within a budget: the page with the lowest weight goes first.

    :param size: the budget in bytes.  0 keeps nothing.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError("a budget can't be negative")
        self._size = size
        self._files: dict[Hashable, dict[int, _Page]] = {}
        self._levels: tuple[OrderedDict[_Page, None], ...] = tuple(
            OrderedDict() for _ in range(HIGHEST_SCORE + 1)
        )
        self._ring: OrderedDict[_Page, None] = OrderedDict()
        self._ghosts: OrderedDict[tuple[Hashable, int], None] = OrderedDict()
        self._last: _Page | None = None
        self._ksm: Ksm | None = None
        self._pages = 0
        self._bytes = 0
        self._centre_bytes = 0
        self._hot_bytes = 0
        self._unread_bytes = 0
        self._expected = 0
        self._dirty = 0
        self._window = [0, 0, 0, 0]
        self._hits = 0
        self._misses = 0
        self._prefetched = 0
        self._prefetched_used = 0
        self._prefetched_in_vain = 0
        self._ghost_hits = 0
        self._evictions = [0] * (HIGHEST_SCORE + 1)

    # -- use ---------------------------------------------------------------------------------------------

    def get(self, key: Hashable, page_no: int) -> bytes | None:
        """The data of a page, or None.  Asking for the page that was asked for last is not another use."""
        file = self._files.get(key)
        page = None if file is None else file.get(page_no)
        if page is None:
            self._misses += 1
            self._count_use(False)
            return None
        self._hits += 1
        if page is not self._last:
            self._last = page
            self._use(page)
        return page.data

    def contains(self, key: Hashable, page_no: int) -> bool:
        """Whether a page is here.  This is not a use."""
        file = self._files.get(key)
        return file is not None and page_no in file

    def peek(self, key: Hashable, page_no: int) -> bytes | None:
        """The data of a page, or None.  This is not a use."""
        file = self._files.get(key)
        page = None if file is None else file.get(page_no)
        return None if page is None else page.data

    def put(
        self, key: Hashable, page_no: int, data: bytes, *, prefetched: bool = False, used: bool = False
    ) -> None:
        """Keep a page, in the place of an older one of this name.  Its first ``get`` counts as its first use.

        :param prefetched: no reader has asked for it yet.
        :param used: a reader asked for it, missed it, and takes *data* now: this is its first use.
        """
        self._remove(key, page_no)
        cost = len(data) + _PAGE_OVERHEAD
        if cost > self._room_in_all():
            return
        page = _Page(key, page_no, data, prefetched)
        if (key, page_no) in self._ghosts:
            del self._ghosts[key, page_no]
            self._ghost_hits += 1
            self._count_use(True)
            self._turn()
            page.uses = 2
            page.weight = CENTRE + 1
        self._files.setdefault(key, {})[page_no] = page
        self._pages += 1
        self._bytes += cost
        self._enter(page)
        if prefetched:
            self._prefetched += 1
            self._unread_bytes += cost
        if self._ksm is not None:
            page.mergeable = self._ksm.mark(data)
        if used:
            self._last = page
            if not page.uses:
                self._use(page)
        self._shrink(page)

    def passed(self, key: Hashable, page_no: int) -> None:
        """A sequential reader has gone on to the next page."""
        self._depress(key, page_no, PASSED)

    def handed(self, key: Hashable, page_no: int) -> None:
        """The kernel holds the whole page now."""
        self._depress(key, page_no, HANDED)

    def drop(self, key: Hashable) -> None:
        """Drop all pages of a key, without ghosts."""
        for page in list(self._files.get(key, {}).values()):
            self._unlink(page)

    def clear(self) -> None:
        """Drop all pages, in one step (with KSM, in one step a page)."""
        self._end_merging(unmark=False)
        self._files = {}
        self._levels = tuple(OrderedDict() for _ in range(HIGHEST_SCORE + 1))
        self._ring = OrderedDict()
        self._ghosts = OrderedDict()
        self._last = None
        self._pages = self._bytes = self._centre_bytes = self._hot_bytes = self._unread_bytes = 0

    def merge(self, ksm: Ksm | None) -> None:
        """Have the kernel keep equal pages once from now on; None: end this, and unmark all pages."""
        if self._ksm is not None:
            self._end_merging(unmark=True)
        self._ksm = ksm
        if ksm is not None:
            for level in self._levels:
                for page in level:
                    page.mergeable = ksm.mark(page.data)

    # -- the budget --------------------------------------------------------------------------------------

    def reserve(self, change: int) -> None:
        """Change the number of bytes in write buffers, which count against the budget."""
        self._dirty += change
        if change > 0:
            self._shrink(None)

    def resize(self, size: int) -> None:
        """Set another budget (bytes)."""
        self._size = size
        self._shrink(None)

    def prefetch_room(self) -> int:
        """How many bytes may be read ahead now without pushing out earlier readahead."""
        room = self._room_in_all()
        in_use = self._hot_bytes + max(0, self._centre_bytes - self._unread_bytes)
        most = max(room // _CENTRE_SHARE, (room - in_use) // 2)
        return max(0, most - self._unread_bytes - self._expected)

    def expect(self, change: int) -> None:
        """Change the number of readahead bytes that are on their way."""
        self._expected += change

    def weight(self, key: Hashable, page_no: int) -> int | None:
        """The weight of a page, None if it is not here."""
        page = self._files.get(key, {}).get(page_no)
        return None if page is None else page.weight

    def stats(self) -> dict[str, int | float]:
        """Counters since the start (hits, misses, prefetched ...) and gauges (bytes, pressure ...)."""
        uses, reused = self._window[0] + self._window[2], self._window[1] + self._window[3]
        held = self._bytes + self._dirty
        result: dict[str, int | float] = {
            "hits": self._hits,
            "misses": self._misses,
            "prefetched": self._prefetched,
            "prefetched_used": self._prefetched_used,
            "prefetched_in_vain": self._prefetched_in_vain,
            "ghost_hits": self._ghost_hits,
            "evictions": sum(self._evictions),
            "pages": self._pages,
            "bytes": self._bytes,
            "unread_bytes": self._unread_bytes,
            "hot_bytes": self._hot_bytes,
            "size": self._size,
            "pressure_reuse": reused / uses if uses else 0.0,
            "pressure_dirty": self._dirty / held if held else 0.0,
        }
        for weight, count in enumerate(self._evictions):
            result[f"evictions_at_{weight}"] = count
        return result

    # -- inside ------------------------------------------------------------------------------------------

    def _use(self, page: _Page) -> None:
        if page.prefetched:
            page.prefetched = False
            self._prefetched_used += 1
            self._unread_bytes -= len(page.data) + _PAGE_OVERHEAD
        page.recent = True
        if page.uses == 0:
            page.uses = 1
            self._count_use(False)
            return
        page.uses = 2
        hot = page.weight > CENTRE
        self._move(page, min(HIGHEST_SCORE, max(CENTRE, page.weight) + 1))
        self._count_use(hot)
        if hot:
            self._turn()

    def _count_use(self, reuse: bool) -> None:
        """Two half windows: the one that fills, and the one before it."""
        window = self._window
        window[0] += 1
        window[1] += reuse
        if window[0] >= _WINDOW:
            window[2:] = window[:2]
            window[:2] = 0, 0

    def _turn(self) -> None:
        """Move the clock hand by one page."""
        if not self._ring:
            return
        page = next(iter(self._ring))
        self._ring.move_to_end(page)
        if page.recent:
            page.recent = False
        else:
            self._move(page, page.weight - 1)

    def _move(self, page: _Page, weight: int) -> None:
        if page.weight > CENTRE and weight > CENTRE:  # stays on the ring
            del self._levels[page.weight][page]
            self._levels[weight][page] = None
            page.weight = weight
            return
        self._leave(page)
        if weight < page.weight:
            page.uses = 1
        page.weight = weight
        self._enter(page)

    def _enter(self, page: _Page) -> None:
        self._levels[page.weight][page] = None
        cost = len(page.data) + _PAGE_OVERHEAD
        if page.weight > CENTRE:
            self._ring[page] = None
            self._hot_bytes += cost
        elif page.weight == CENTRE:
            self._centre_bytes += cost

    def _leave(self, page: _Page) -> None:
        del self._levels[page.weight][page]
        cost = len(page.data) + _PAGE_OVERHEAD
        if page.weight > CENTRE:
            del self._ring[page]
            self._hot_bytes -= cost
        elif page.weight == CENTRE:
            self._centre_bytes -= cost

    def _depress(self, key: Hashable, page_no: int, weight: int) -> None:
        file = self._files.get(key)
        page = None if file is None else file.get(page_no)
        if page is not None and page.uses == 1 and page.weight > weight:
            self._move(page, weight)

    def _end_merging(self, *, unmark: bool) -> None:
        if self._ksm is None:
            return
        marked = [page for level in self._levels for page in level if page.mergeable]
        for page in marked:
            page.mergeable = False
            if not unmark:
                self._ksm.forget(page.data)
        if unmark:
            self._ksm.take_back(page.data for page in marked)

    def _room_in_all(self) -> int:
        return self._size - self._dirty

    def _shrink(self, newest: _Page | None) -> None:
        """Evict until the budget holds; ``newest`` is never evicted."""
        while self._bytes > self._room_in_all() and self._pages:
            page = self._victim(newest)
            if page is None:
                return
            self._evictions[page.weight] += 1
            if page.prefetched:
                self._prefetched_in_vain += 1
            self._unlink(page)
            self._ghosts[page.key, page.number] = None
            if len(self._ghosts) > _GHOSTS:
                self._ghosts.popitem(last=False)

    def _victim(self, newest: _Page | None) -> _Page | None:
        protected = self._centre_bytes * _CENTRE_SHARE <= self._room_in_all()
        for weight in _CENTRE_LATER if protected else _BY_WEIGHT:
            for page in self._levels[weight]:
                if page is not newest:
                    return page
        return None

    def _remove(self, key: Hashable, page_no: int) -> None:
        file = self._files.get(key)
        page = None if file is None else file.get(page_no)
        if page is not None:
            self._unlink(page)

    def _unlink(self, page: _Page) -> None:
        file = self._files[page.key]
        del file[page.number]
        if not file:
            del self._files[page.key]
        self._leave(page)
        if page.mergeable and self._ksm is not None:
            self._ksm.forget(page.data)
        cost = len(page.data) + _PAGE_OVERHEAD
        self._pages -= 1
        self._bytes -= cost
        if page.prefetched:
            self._unread_bytes -= cost
        if page is self._last:
            self._last = None
