"""What is pushed for readers in all sorts of orders.

The kernel here is one that asks for what it does not have, and keeps what was pushed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from dboxfs.store.attrs import Uids
from dboxfs.vfs.walks import PUSHED_MOST_BYTES, WINDOW_BYTES, WINDOW_MOST, Orders, OwnNames, Predictor

COUNT = 20_000


class Kernel:
    """Asks the walks of one mailbox or several, and counts.

    :param size: bytes of each message.
    """

    def __init__(self, uids: Iterable[int], size: int = 8000, named: dict[int, bytes] | None = None) -> None:
        self.predictor = Predictor()
        self.orders = Orders(np.array(sorted(uids), np.uint32), named or {})
        self.sizes: dict[int, int] = {}
        self.size = size
        self.cached: set[tuple[int, int]] = set()
        self.seen: set[tuple[int, int]] = set()
        self.windows: list[list[int]] = []
        self.ahead: list[bool] = []
        self.reads = self.in_vain = 0

    def size_of(self, uids: Uids) -> npt.NDArray[np.int64]:
        return np.array([self.sizes.get(uid, self.size) for uid in uids.tolist()], np.int64)

    def read(self, uid: int, folder: int = 1) -> None:
        self.seen.add((folder, uid))
        if (folder, uid) in self.cached:
            return
        self.reads += 1
        self.cached.add((folder, uid))
        asked = self.predictor.walks(folder).read(uid, self.orders, self.size_of)
        window = asked.uids.tolist()
        if window:
            self.windows.append(window)
            self.ahead.append(asked.ahead)
        self.in_vain += sum((folder, pushed) in self.seen for pushed in window)
        self.cached.update((folder, pushed) for pushed in window)

    def read_listed(self, uids: Sequence[int], at_once: int) -> float:
        """READs a message, of a program that reads messages while it reads the listing: the kernel knows only
        the messages that were listed, *at_once* of them at a time.
        """
        walks, missed = self.predictor.walks(1), set[int]()
        for start in range(0, len(uids), at_once):
            known = set(uids[: start + at_once])
            for uid in uids[start : start + at_once]:
                if uid in missed and (1, uid) not in self.cached:
                    walks.missed(uid, self.orders)
                self.read(uid)
                lost = {one for _, one in self.cached} - known
                missed |= lost
                self.cached -= {(1, one) for one in lost}
        return self.reads / len(uids)

    def read_all(self, uids: Iterable[int], folder: int = 1) -> float:
        """READs a message."""
        before, count = self.reads, 0
        for uid in uids:
            self.read(uid, folder)
            count += 1
        return (self.reads - before) / count


def uids() -> list[int]:
    """Ascending, with gaps."""
    chance = random.Random(7)
    return sorted(chance.sample(range(1, 3 * COUNT), COUNT))


def interleaved(lists: Sequence[Sequence[int]], chance: random.Random) -> Iterator[int]:
    """Several readers at once, none faster than another on the whole."""
    ways = [iter(one) for one in lists]
    while ways:
        way = chance.choice(ways)
        try:
            yield next(way)
        except StopIteration:
            ways.remove(way)


def by_name(numbers: Iterable[int]) -> list[int]:
    return sorted(numbers, key=lambda uid: b"%d.eml" % uid)


def test_a_walk_in_the_order_of_the_uids_costs_a_request_in_a_hundred_messages() -> None:
    kernel = Kernel(uids())
    assert kernel.read_all(uids()) < 0.0095
    assert kernel.in_vain == 0


def test_a_walk_backwards_does_too() -> None:
    assert Kernel(uids()).read_all(reversed(uids())) < 0.0095


def test_a_walk_that_reads_messages_before_it_has_read_the_whole_listing_costs_two_in_a_hundred() -> None:
    some = uids()[:2000]
    kernel = Kernel(some)
    assert kernel.read_listed(some, 180) < 0.025


@pytest.mark.parametrize("backwards", [False, True])
def test_a_walk_in_the_order_of_the_names_does_too(backwards: bool) -> None:
    names = by_name(uids())
    kernel = Kernel(uids())
    assert kernel.read_all(reversed(names) if backwards else names) < 0.0105
    assert kernel.in_vain <= 2 * WINDOW_MOST


def test_the_order_of_names_counts_those_that_programs_have_given() -> None:
    named = {uid: b"note %06d" % (COUNT * 3 - uid) for uid in uids()[::3]}
    kernel = Kernel(uids(), named=named)
    walk = sorted(uids(), key=lambda uid: named.get(uid) or b"%d.eml" % uid)
    assert kernel.read_all(walk) < 0.0105


def test_a_walk_with_every_other_message_left_out_is_a_walk() -> None:
    assert Kernel(uids()).read_all(uids()[::2]) < 0.03


def test_two_threads_that_go_backwards_together_cost_few_requests() -> None:
    kernel, chance = Kernel(uids()), random.Random(3)
    waiting, walk = list(reversed(uids())), []
    while waiting:  # each takes the next one when it is done; so they are a little out of order
        walk.append(waiting.pop(min(chance.choice((0, 0, 1)), len(waiting) - 1)))
    assert kernel.read_all(walk) < 0.035


def test_four_readers_in_parallel_have_a_walk_each() -> None:
    numbers, chance = uids(), random.Random(5)
    quarters = [numbers[n * COUNT // 4 : (n + 1) * COUNT // 4] for n in range(4)]
    kernel = Kernel(numbers)
    assert kernel.read_all(interleaved(quarters, chance)) < 0.018
    assert kernel.in_vain < 0.06 * COUNT


def test_four_readers_of_different_orders_do_not_disturb_each_other() -> None:
    numbers, chance = uids(), random.Random(6)
    names = by_name(numbers)
    walks = [numbers[: COUNT // 2], numbers[: COUNT // 2 : -1], names[: COUNT // 2], names[: COUNT // 2 : -1]]
    assert Kernel(numbers).read_all(interleaved(walks, chance)) < 0.03


def test_who_reads_in_no_order_gets_at_most_six_of_a_hundred_pushed_in_vain() -> None:
    numbers = uids()
    random.Random(11).shuffle(numbers)
    kernel = Kernel(uids())
    assert kernel.read_all(numbers) > 0.9
    assert kernel.in_vain <= 0.06 * COUNT


def test_who_reads_a_few_in_no_order_has_few_pushed_at_all() -> None:
    kernel = Kernel(uids())
    kernel.read_all(random.Random(12).sample(uids(), 2000))
    assert sum(map(len, kernel.windows)) <= 0.06 * 2000


def test_a_walk_from_mailbox_to_mailbox_keeps_its_window() -> None:
    kernel = Kernel(range(1, 201))
    for folder in range(100):
        kernel.read_all(range(1, 201), folder)
    assert kernel.reads / 20_000 < 0.02


def test_a_window_doubles_up_to_its_limit() -> None:
    kernel = Kernel(uids())
    kernel.read_all(uids())
    assert [len(window) for window in kernel.windows[:7]] == [8, 16, 32, 64, 128, 128, 128]
    assert max(map(len, kernel.windows)) == WINDOW_MOST


@pytest.mark.parametrize(
    "order", [uids(), list(reversed(uids())), by_name(uids())], ids=["up", "down", "names"]
)
def test_a_walk_waits_twice_and_each_later_window_comes_when_a_quarter_of_the_last_one_is_left(
    order: list[int],
) -> None:
    kernel = Kernel(uids())
    for uid in order[:5000]:
        windows = len(kernel.windows)
        kernel.read(uid)
        if windows > 1 and len(kernel.windows) > windows:
            last, here = kernel.windows[-2], order.index(uid)
            assert len(set(last) & set(order[here:])) == len(last) // 4
    assert kernel.ahead == [False, False] + [True] * (len(kernel.windows) - 2)
    assert len(kernel.windows) > 30


def test_a_walk_whose_wire_the_program_leaves_out_goes_on_behind_its_window() -> None:
    numbers = uids()
    kernel = Kernel(numbers)
    kernel.read_all(numbers[:11])
    first, last = (numbers.index(uid) for uid in (kernel.windows[1][0], kernel.windows[1][-1]))
    (wire,) = set(numbers[first : last + 1]) - set(kernel.windows[1])
    kernel.read_all(uid for uid in numbers[11:100] if uid != wire)
    assert kernel.windows[2][0] == numbers[last + 2]
    assert kernel.ahead[:4] == [False, False, False, True]


def test_a_window_has_no_more_bytes_than_its_limit() -> None:
    kernel = Kernel(uids(), size=1 << 20)
    assert kernel.read_all(uids()[:2000]) < 0.15
    assert max(map(len, kernel.windows)) == WINDOW_BYTES >> 20


def test_messages_that_are_too_large_or_of_unknown_size_are_passed_over() -> None:
    kernel = Kernel(range(1, 1001))
    odd = dict.fromkeys(range(50, 1001, 50), PUSHED_MOST_BYTES + 1) | dict.fromkeys(range(75, 1001, 50), -1)
    kernel.sizes = odd
    kernel.read_all(range(1, 1001))
    pushed = {uid for window in kernel.windows for uid in window}
    assert not pushed & set(odd)
    assert kernel.reads <= len(odd) + 20


def test_one_message_alone_brings_nothing() -> None:
    kernel = Kernel(uids())
    kernel.read(uids()[500])
    kernel.read(uids()[9000])
    assert kernel.windows == []


def test_a_walk_goes_on_over_messages_that_come_and_go() -> None:
    kernel = Kernel(uids())
    for position, uid in enumerate(uids()):
        kernel.read(uid)
        if position % 1000 == 999:  # half of what was read is expunged, and some is appended
            left = [n for n in kernel.orders.uids.tolist() if n > uid or n % 2]
            kernel.orders = Orders(np.array([*left, left[-1] + 1], np.uint32), {})
    assert kernel.reads < 0.02 * COUNT


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 99, 1000, 12345])
def test_names_of_numbers_are_in_the_order_of_their_bytes(count: int) -> None:
    numbers = np.arange(1, count + 1, dtype=np.uint32)
    assert Orders(numbers, {}).slice(0, count, by_name=True).tolist() == by_name(range(1, count + 1))
    large = numbers + np.uint32(4_294_967_295 - count)
    assert Orders(large, {}).slice(0, count, by_name=True).tolist() == by_name(large.tolist())
    in_maildir = Orders(numbers, {}, OwnNames(b"7.U", b"F0.dboxfs")).slice(0, count, by_name=True)
    assert in_maildir.tolist() == sorted(range(1, count + 1), key=lambda uid: b"7.U%dF0" % uid)
    in_mh = Orders(numbers, {}, OwnNames(b"", b"")).slice(0, count, by_name=True)
    assert in_mh.tolist() == sorted(range(1, count + 1), key=lambda uid: b"%d" % uid)
