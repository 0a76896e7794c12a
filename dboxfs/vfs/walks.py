"""Recognises in which order messages are read, and predicts the next ones.

This module uses no clock, no kernel and no store. The kernel sends a READ only for bytes that it does not
have. So once the next messages of a walk are in its cache, no READ comes until the walk has passed them. Each
READ that arrives is one of these:

* one for the *wire* of a walk, a message behind three quarters of its last window, which is not pushed (the
  first window has none, since it may be no walk after all): the walk goes on. Its next window doubles
  (:data:`WINDOW_FIRST` to :data:`WINDOW_MOST` messages) and begins behind the last one, so its messages are
  read and pushed while the program works with the rest of the last one;
* one for the first message behind the walk's last window, whose wire the program did not read: the walk goes
  on in the same way, but the program waits;
* one for a neighbour of a message that was read just now: a new walk, in that direction;
* one for a message that was to be pushed, but that the kernel did not know yet (:meth:`Walks.missed`): a
  program such as rsync reads messages before it has read the whole listing.  The window ended before it;
* one for the first or last message of a directory, when a walk has just come to the end of another one: a
  program goes from mailbox to mailbox, or from ``cur/`` to ``new/``. The walk keeps the size of its window;
* any other: no message is pushed, so a program that reads in no order causes no pushes.

There are two orders in each directory, that of the uids (listings, tar, grep -r) and that of the names
(``cat *``, rsync), and two directions. A directory of links to some messages of a mailbox
(:mod:`dboxfs.vfs.searches`) is one of its own. Several readers at once are several walks, or one whose
steps are a little out of order, by up to :data:`WALK_SLACK` messages.

A window ends early where its messages have :data:`WINDOW_BYTES` together. Messages of more bytes than
:data:`PUSHED_MOST_BYTES`, and those whose size is not known, are not pushed: programs read them piece by
piece.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from dboxfs.store.attrs import Uids

WINDOW_FIRST = 8
"""Messages in the first window of a walk."""

WINDOW_MOST = 128
"""Messages in a window, at most."""

WINDOW_BYTES = 8 << 20
"""Bytes in a window, at most."""

PUSHED_MOST_BYTES = 2 << 20
"""Bytes of a message that is pushed, at most."""

WALK_SLACK = 4
"""A READ up to this many messages behind the end of a walk belongs to it: several readers may share it."""

WALKED_MOST = 1024
"""Directories whose walks are remembered, at most."""

_NEIGHBOURS = 2
_RECENT = 6
_WALKS = 8
_NAMED_MOST = 200_000

Sizes = Callable[[Uids], npt.NDArray[np.int64]]
"""uids -> int64[n], bytes of each message; negative: it is not to be pushed."""


class OwnNames(NamedTuple):
    """Names of messages that no program has named: ``before``, the uid in digits, ``behind``."""

    before: bytes
    behind: bytes

    def of(self, uid: int) -> bytes:
        """The name of a message, up to what all names have behind the uid."""
        return b"%b%d%b" % (self.before, uid, self.behind)


EML = OwnNames(b"", b".eml")
"""Names where no view is."""


class InDirectory(NamedTuple):
    """The messages of a directory.

    ``directory``: its inode number.  ``uids``: ascending, uint32[n]; the same array as long as they are the
    same messages.  ``named``: gives names of messages that are not called as ``own`` says.
    """

    directory: int
    uids: Uids
    named: Callable[[], Mapping[int, bytes]]
    own: OwnNames = EML


class PushWindow(NamedTuple):
    """Messages to push.

    ``uids``: in the order of the walk, uint32[n].  ``ahead``: the program has messages of the window before
    left to read, so its READ need not wait for these.
    """

    uids: Uids
    ahead: bool = False


class Orders:
    """The messages of one directory, in both orders.

    :param uids: ascending, uint32[n].
    :param named: names of messages that are not called as *own* says.
    """

    def __init__(self, uids: Uids, named: Mapping[int, bytes], own: OwnNames = EML) -> None:
        self.uids = uids
        self._named = named
        self._own = own
        self._by_name: npt.NDArray[np.intp] | None = None
        self._rank: npt.NDArray[np.intp] | None = None

    def __len__(self) -> int:
        return len(self.uids)

    def position(self, uid: int, *, by_name: bool) -> int:
        """The place of *uid*, counted from 0; -1: it is gone."""
        row = int(np.searchsorted(self.uids, uid))
        if row == len(self.uids) or self.uids[row] != uid:
            return -1
        return int(self._ranks()[row]) if by_name else row

    def slice(self, first: int, last: int, *, by_name: bool) -> Uids:
        """The messages at the places from *first* to *last*, *last* excluded; backwards if *last* is less."""
        if first == last:
            return self.uids[:0]
        step = 1 if last > first else -1
        if not by_name:
            return self.uids[first : last if last >= 0 else None : step]
        self._ranks()
        assert self._by_name is not None
        return self.uids[self._by_name[first : last if last >= 0 else None : step]]

    def _ranks(self) -> npt.NDArray[np.intp]:
        if self._rank is None:
            self._by_name = self._sorted()
            self._rank = np.empty(len(self.uids), np.intp)
            self._rank[self._by_name] = np.arange(len(self.uids))
        return self._rank

    def _sorted(self) -> npt.NDArray[np.intp]:
        """Rows in the order of the names as bytes; in a very large mailbox without the written names."""
        uids = self.uids.astype(np.int64)
        if self._named and len(uids) <= _NAMED_MOST:
            names = [self._named.get(uid) or self._own.of(uid) for uid in uids.tolist()]
            return np.array(sorted(range(len(names)), key=names.__getitem__), np.intp)
        digits = np.ones(len(uids), np.int64)
        for power in range(1, 10):
            digits += uids >= 10**power
        padding = 10 ** (10 - digits)
        if self._own.behind < b"0":  # a number comes before those that begin with it
            return np.lexsort((digits, uids * padding))
        return np.lexsort((-digits, uids * padding + padding - 1))


class _Walk(Struct):
    """One walk. ``end``: the last uid of its window. ``window``: messages in it. ``step``: 1 or -1.
    ``wire``: the uid whose READ opens the next window; 0: there is none.  ``begin``: the uid whose READ has
    opened this one.
    """

    by_name: bool
    step: int
    end: int
    window: int
    wire: int = 0
    begin: int = 0
    _seen: Orders | None = None
    _place: int = -1

    def place(self, orders: Orders) -> int:
        """The place of its end; -1: that message is gone."""
        if self._seen is not orders:
            self._seen, self._place = orders, orders.position(self.end, by_name=self.by_name)
        return self._place

    def promise(self, end: int) -> None:
        """Its window ends with the message *end* now."""
        self.end, self._seen = end, None


class Walks:
    """The walks through one directory.

    :param predictor: knows the other directories.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor
        self._walks: list[_Walk] = []
        self._recent: deque[int] = deque(maxlen=_RECENT)

    def read(self, uid: int, orders: Orders, sizes: Sizes) -> PushWindow:
        """The kernel reads the beginning of *uid*; gives the messages to push."""
        walk = next((walk for walk in self._walks if walk.wire == uid), None)
        if walk is not None and (end := walk.place(orders)) >= 0:
            self._doubled(walk)
            walk.begin = uid
            return PushWindow(self._window(walk, end, orders, sizes), ahead=True)
        walk = self._goes_on(uid, orders)
        if walk is not None and walk.end == uid:
            return PushWindow(orders.uids[:0])
        if walk is None:
            walk = self._new(uid, orders) or self._predictor.continued(uid, orders)
            self._recent.append(uid)
            if walk is None:
                return PushWindow(orders.uids[:0])
            self._walks.insert(0, walk)
            del self._walks[_WALKS:]
        walk.begin = uid
        walk.promise(uid)
        return PushWindow(self._window(walk, walk.place(orders), orders, sizes))

    def _doubled(self, walk: _Walk) -> None:
        walk.window = min(walk.window * 2, WINDOW_MOST)
        self._walks.remove(walk)
        self._walks.insert(0, walk)

    def missed(self, uid: int, orders: Orders) -> None:
        """The kernel did not know *uid* when it was to be pushed: the window of its walk ended before it."""
        for walk in self._walks:
            here = orders.position(uid, by_name=walk.by_name)
            begin = orders.position(walk.begin, by_name=walk.by_name)
            end, before = walk.place(orders), here - walk.step
            there = min(begin, end, here, before) >= 0 and before < len(orders)
            if there and (here - begin) * walk.step > 0 >= (here - end) * walk.step:
                walk.wire = 0
                walk.promise(int(orders.slice(before, here, by_name=walk.by_name)[0]))

    def _goes_on(self, uid: int, orders: Orders) -> _Walk | None:
        """The walk that *uid* belongs to; None: none. Its ``end`` is *uid* if no message is to be pushed."""
        places: dict[bool, int] = {}
        for walk in self._walks:
            if walk.by_name not in places:
                places[walk.by_name] = orders.position(uid, by_name=walk.by_name)
            end, here = walk.place(orders), places[walk.by_name]
            if end < 0 or here < 0:
                continue
            ahead = (here - end) * walk.step
            if 0 < ahead <= WALK_SLACK:
                self._doubled(walk)
                return walk
            begin = orders.position(walk.begin, by_name=walk.by_name)
            is_within = ahead <= 0 and begin >= 0 and (here - begin) * walk.step >= 0
            if is_within:  # not stored yet, not pushed, or dropped again
                return _Walk(walk.by_name, walk.step, uid, 0)
        return None

    def _new(self, uid: int, orders: Orders) -> _Walk | None:
        for by_name in (False, True) if self._recent else ():
            here = orders.position(uid, by_name=by_name)
            if here < 0:
                return None
            before = orders.slice(max(here - _NEIGHBOURS, 0), here, by_name=by_name).tolist()
            behind = orders.slice(
                here + 1, min(here + 1 + _NEIGHBOURS, len(orders)), by_name=by_name
            ).tolist()
            for other in reversed(self._recent):
                if other in before or other in behind:
                    return _Walk(by_name, 1 if other in before else -1, uid, WINDOW_FIRST)
        return None

    def _window(self, walk: _Walk, behind: int, orders: Orders, sizes: Sizes) -> Uids:
        """The walk's next window, which begins behind this place, without its wire."""
        first, edge = behind + walk.step, len(orders) if walk.step > 0 else -1
        walk.wire = 0
        is_last = abs(edge - first) <= walk.window  # it ends with the directory
        has_wire = not is_last and walk.window > WINDOW_FIRST
        last = edge if is_last else first + walk.step * (walk.window + has_wire)
        uids = orders.slice(first, last, by_name=walk.by_name)
        bytes_each = sizes(uids)
        pushed = (bytes_each > 0) & (bytes_each <= PUSHED_MOST_BYTES)
        within = _within(bytes_each, pushed)
        if has_wire and within.any():
            wire = int(np.count_nonzero(within)) * 3 // 4
            walk.wire, pushed[wire] = int(uids[wire]), False
            within = _within(bytes_each, pushed)
        if within.any():
            walk.promise(int(uids[within][-1]))
        if is_last and within.all():
            self._predictor.ended(walk.by_name, walk.step, walk.window)
        return uids[within & pushed]


def _within(bytes_each: npt.NDArray[np.int64], pushed: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which messages are within the bytes of a window."""
    return np.asarray(np.cumsum(np.where(pushed, bytes_each, 0)) <= WINDOW_BYTES)


class Predictor:
    """The walks through all directories of a mount."""

    def __init__(self) -> None:
        self._of: OrderedDict[int, Walks] = OrderedDict()
        self._ended: tuple[bool, int, int] | None = None

    def walks(self, directory: int) -> Walks:
        """The walks through the directory with this inode number."""
        found = self._of.get(directory)
        if found is None:
            found = self._of[directory] = Walks(self)
            if len(self._of) > WALKED_MOST:
                self._of.popitem(last=False)
        else:
            self._of.move_to_end(directory)
        return found

    def forget(self, directory: int) -> None:
        """The directory is gone."""
        self._of.pop(directory, None)

    def ended(self, by_name: bool, step: int, window: int) -> None:
        """A walk has come to the end of its directory."""
        self._ended = by_name, step, window

    def continued(self, uid: int, orders: Orders) -> _Walk | None:
        """The walk that ended last, if *uid* is the message where it would begin in this directory."""
        if self._ended is None:
            return None
        by_name, step, window = self._ended
        if orders.position(uid, by_name=by_name) != (0 if step > 0 else len(orders) - 1):
            return None
        self._ended = None
        return _Walk(by_name, step, uid, window)
