"""The page cache: what stays, what goes, within what budget, at what cost."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dboxfs.fsapi import PageCache

KIB = 1 << 10
MIB = 1 << 20


def use(cache: PageCache, key: Hashable, size: int, page_no: int = 0) -> bool:
    """Read a page through the cache; True if it was there."""
    if cache.get(key, page_no) is not None:
        return True
    cache.put(key, page_no, bytes(size))
    assert cache.get(key, page_no) == bytes(size)
    return False


class Lru:
    """The usual rule, to compare with."""

    def __init__(self, size: int) -> None:
        self._left = size
        self._pages: OrderedDict[Hashable, int] = OrderedDict()

    def use(self, key: Hashable, size: int) -> bool:
        """Read a page through the cache; True if it was there."""
        if key in self._pages:
            self._pages.move_to_end(key)
            return True
        self._pages[key] = size
        self._left -= size
        while self._left < 0:
            self._left += self._pages.popitem(last=False)[1]
        return False


def test_a_hot_set_survives_a_scan_of_10_gb_where_lru_loses_all_of_it() -> None:
    cache, lru = PageCache(64 * MIB), Lru(64 * MIB)
    messages = [(f"message {number}", 8 * KIB + number * 44) for number in range(1000)]  # 30 KB mean
    for _ in range(3):
        for key, size in messages:
            use(cache, key, size)
            lru.use(key, size)
    pressure = cache.stats()["pressure_reuse"]
    page = bytes(64 * KIB)
    for number in range(10 * 16 * 1024):
        cache.put("scan", number, page, prefetched=True)
        assert cache.get("scan", number) is page
        cache.passed("scan", number - 1)
        lru.use(("scan", number), len(page))
    scanned = cache.stats()
    hits = sum(use(cache, key, size) for key, size in messages)
    lru_hits = sum(lru.use(key, size) for key, size in messages)
    print(f"hit rate after the scan: {hits / 10:.1f} %, LRU: {lru_hits / 10:.1f} %")
    assert hits >= 900
    assert lru_hits <= 100
    assert scanned["prefetched_in_vain"] == 0
    assert scanned["pressure_reuse"] == 0.0 < pressure
    assert scanned["bytes"] <= 64 * MIB


def test_a_new_hot_set_takes_the_place_of_an_old_one() -> None:
    cache = PageCache(8 * MIB)
    for _ in range(8):
        for number in range(900):
            use(cache, ("old", number), 8000)
    rounds = [sum(use(cache, ("new", number), 8000) for number in range(900)) for _ in range(10)]
    assert rounds[0] == 0
    assert rounds[-1] == 900


def test_a_page_starts_in_the_centre_and_rises_from_its_second_use() -> None:
    cache = PageCache(MIB)
    cache.put("a", 0, b"x", prefetched=True)
    weights = []
    for _ in range(9):
        weights.append(cache.weight("a", 0))
        cache.get("a", 0)
        cache.put("b", 0, b"")
        cache.get("b", 0)
    assert weights == [5, 5, 6, 7, 8, 9, 10, 10, 10]


def test_uses_that_follow_each_other_directly_are_one() -> None:
    cache = PageCache(MIB)
    cache.put("a", 0, b"x")
    for _ in range(20):
        cache.get("a", 0)
    assert cache.weight("a", 0) == 5
    assert cache.stats()["hits"] == 20


def test_pages_that_a_reader_has_passed_go_before_all_others_and_hot_pages_are_not_depressed() -> None:
    cache = PageCache(MIB)
    for key in ("read", "handed", "hot", "unread"):
        cache.put(key, 0, bytes(100 * KIB))
    for key in ("read", "handed", "hot", "read", "hot") * 2:
        if key != "read" or cache.weight("read", 0) == 5:
            cache.get(key, 0)
    cache.put("once", 0, bytes(100 * KIB))
    cache.get("once", 0)
    cache.passed("once", 0)
    cache.put("given", 0, bytes(100 * KIB))
    cache.get("given", 0)
    cache.handed("given", 0)
    cache.passed("hot", 0)
    cache.passed("unread", 0)
    cache.passed("nothing", 0)
    assert [cache.weight(key, 0) for key in ("once", "given", "unread")] == [2, 0, 5]
    hot = cache.weight("hot", 0)
    assert hot is not None
    assert hot > 5
    cache.resize(MIB - 500 * KIB)
    assert cache.weight("given", 0) is None
    cache.resize(MIB - 650 * KIB)
    assert cache.weight("once", 0) is None
    assert cache.weight("hot", 0) == hot


def test_hot_pages_decay_only_when_others_are_used() -> None:
    cache = PageCache(10 * MIB)
    for _ in range(20):
        for key in ("idle", "used", "not used"):
            use(cache, key, 100)
    assert cache.weight("idle", 0) == 10
    for number in range(1000):
        cache.put("scan", number, b"x")
        cache.get("scan", number)
    assert cache.weight("idle", 0) == 10
    for _ in range(100):
        cache.get("used", 0)
        cache.get("not used", 0)
    weight = cache.weight("idle", 0)
    assert weight is not None
    assert weight <= 5
    assert cache.weight("used", 0) == 10


def test_new_pages_do_not_push_each_other_out_when_the_budget_is_full_of_hot_ones() -> None:
    cache = PageCache(MIB)
    for _ in range(10):
        for number in range(150):
            use(cache, number, 6 * KIB)
    for number in range(1000):  # readahead of 8 pages, read later
        cache.put("new", number, bytes(8 * KIB), prefetched=True)
        if number >= 8:
            assert cache.get("new", number - 8) is not None
    hot = sum(cache.contains(number, 0) for number in range(150))
    assert hot >= 100


def test_readahead_that_nobody_reads_is_bounded() -> None:
    cache = PageCache(MIB)
    assert cache.prefetch_room() == MIB // 2
    for number in range(4):
        cache.put("ahead", number, bytes(64 * KIB), prefetched=True)
    assert cache.prefetch_room() < MIB // 2 - 256 * KIB
    cache.expect(256 * KIB)
    assert cache.prefetch_room() == 0
    cache.expect(-256 * KIB)
    cache.get("ahead", 0)
    assert cache.prefetch_room() > 256 * KIB
    assert cache.stats()["prefetched_used"] == 1


def test_unwritten_bytes_count_against_the_budget() -> None:
    cache = PageCache(MIB)
    for number in range(16):
        cache.put("a", number, bytes(60 * KIB))
    cache.reserve(MIB // 2)
    stats = cache.stats()
    assert stats["bytes"] <= MIB // 2
    assert 0.5 <= stats["pressure_dirty"] <= 0.6
    cache.reserve(-MIB // 2)
    assert cache.stats()["pressure_dirty"] == 0.0


def test_dropping_a_key_forgets_its_pages_and_no_others() -> None:
    cache = PageCache(MIB)
    for number in range(5):
        cache.put("a", number, b"x")
        cache.put("b", number, b"y")
    cache.drop("a")
    cache.drop("a")
    assert [cache.get("a", number) for number in range(5)] == [None] * 5
    assert [cache.get("b", number) for number in range(5)] == [b"y"] * 5
    cache.clear()
    assert cache.get("b", 0) is None
    assert cache.stats()["bytes"] == cache.stats()["pages"] == 0


def test_nothing_is_kept_that_is_larger_than_the_budget() -> None:
    cache = PageCache(100 * KIB)
    cache.put("a", 0, b"x")
    cache.put("big", 0, bytes(100 * KIB))
    assert cache.get("big", 0) is None
    assert cache.get("a", 0) == b"x"
    off = PageCache(0)
    off.put("a", 0, b"")
    assert off.get("a", 0) is None
    with pytest.raises(ValueError, match="negative"):
        PageCache(-1)


keys = st.integers(0, 4)
pages = st.integers(0, 6)
calls = st.one_of(
    st.tuples(st.just("put"), keys, pages, st.integers(0, 3000), st.booleans()),
    st.tuples(st.just("get"), keys, pages),
    st.tuples(st.just("get"), keys, pages),
    st.tuples(st.just("passed"), keys, pages),
    st.tuples(st.just("handed"), keys, pages),
    st.tuples(st.just("drop"), keys),
    st.tuples(st.just("reserve"), st.integers(0, 4000)),
    st.tuples(st.just("resize"), st.integers(0, 20_000)),
    st.tuples(st.just("clear")),
)


@settings(max_examples=300, deadline=None)
@given(script=st.lists(calls, max_size=80))
def test_the_books_always_balance(script: list[tuple[object, ...]]) -> None:
    size, dirty = 15_000, 0
    cache = PageCache(size)
    newest: dict[tuple[object, object], bytes] = {}
    for number, (name, *arguments) in enumerate(script):
        if name == "put":
            key, page_no, length, prefetched = arguments
            assert isinstance(length, int)
            newest[key, page_no] = b"%d" % number * length
            cache.put(key, page_no, newest[key, page_no], prefetched=bool(prefetched))  # type: ignore[arg-type]
        elif name == "get":
            found = cache.get(arguments[0], arguments[1])  # type: ignore[arg-type]
            assert found is None or found == newest[arguments[0], arguments[1]]
        elif name == "reserve":
            change = int(str(arguments[0])) - dirty
            dirty += change
            cache.reserve(change)
        elif name == "resize":
            size = int(str(arguments[0]))
            cache.resize(size)
        else:
            getattr(cache, str(name))(*arguments)
        check_books(cache, size - dirty)


def check_books(cache: PageCache, room: int) -> None:
    held = [page for file in cache._files.values() for page in file.values()]
    cost = {page: len(page.data) + 256 for page in held}
    stats = cache.stats()
    assert stats["bytes"] == sum(cost.values()) <= max(0, room)
    assert stats["pages"] == len(held) == sum(len(level) for level in cache._levels)
    assert stats["hot_bytes"] == sum(cost[page] for page in held if page.weight > 5)
    assert cache._centre_bytes == sum(cost[page] for page in held if page.weight == 5)
    assert stats["unread_bytes"] == sum(cost[page] for page in held if page.prefetched)
    assert set(cache._ring) == {page for page in held if page.weight > 5}
    for weight, level in enumerate(cache._levels):
        assert all(page.weight == weight for page in level)
    assert len(cache._ghosts) <= 4096


def test_a_page_that_is_put_for_who_takes_it_was_used_once_then() -> None:
    """Whoever misses a page, brings it and takes it without asking again has used it: twice makes it hot."""
    cache = PageCache(MIB)
    assert cache.get("message", 0) is None
    cache.put("message", 0, bytes(KIB), used=True)
    assert cache.weight("message", 0) == 5
    assert cache.get("message", 0) is not None  # at once: the same use
    assert cache.weight("message", 0) == 5
    cache.put("other", 0, bytes(KIB), used=True)
    assert cache.get("message", 0) is not None
    assert cache.weight("message", 0) == 6
    cache.passed("other", 0)
    assert cache.weight("other", 0) == 2
