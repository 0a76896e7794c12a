"""Group commit: requests that are ready together are committed together.

The first request becomes the leader and commits all requests that wait.  Requests that come meanwhile form
the next group, and its first request leads that.  There is no separate task.

A leader first lets all ready tasks run.  If the queue *gathers*, it then waits for more requests, at most as
long as the last group has taken: a group costs about as much as one request, so writers that would alternate
are faster together.  It waits for as many requests as were in the last group or waited behind it, so a single
writer does not wait.  After a wait in vain the next groups don't wait; their number doubles each time.

Cancellation: a waiting request is withdrawn (``taken`` stays False, its owner cleans up).  A request that a
leader has taken is committed; only its owner does not get the result.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

import trio

from dboxfs.fsapi.ops import fresh
from dboxfs.store.write.meaning import contradict, meaning, meant

R = TypeVar("R")
T = TypeVar("T")

LONGEST_WAIT = 0.02
"""Seconds that a leader waits for more requests, at most."""

MOST_SKIPPED = 64
"""Groups in a row that don't wait after waits in vain, at most."""


class Request(Generic[T, R]):
    """A value to be committed, and the outcome.

    :param mailbox: the storage name of the mailbox that it changes.
    :ivar turn: set when the outcome is known, or when this request is to lead.
    :ivar meant: by mailbox name, the guid of the mailbox that its task means (None: any).
    """

    __slots__ = ("error", "meant", "result", "taken", "turn", "what")

    def __init__(self, what: T, mailbox: str | None = None) -> None:
        self.what = what
        self.meant = {mailbox: meant().get(mailbox)} if mailbox is not None else {}
        self.taken = False
        self.result: R | None = None
        self.error: Exception | None = None
        self.turn = trio.Event()

    @property
    def over(self) -> bool:
        """Whether the outcome is known."""
        return self.result is not None or self.error is not None


class GroupCommit(Generic[T, R]):
    """One queue.  *commit* gives every request of a group a ``result`` or an ``error``, or raises for all.

    :param gathers: a leader waits for requests of writers that have just saved.
    :ivar groups: the number of groups so far.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[Request[T, R]]], Awaitable[None]],
        limit: int = 1000,
        *,
        gathers: bool = False,
    ) -> None:
        self.groups = 0
        self._commit = commit
        self._limit = limit
        self._waiting: list[Request[T, R]] = []
        self._leader: Request[T, R] | None = None
        self._gathering = _Gathering() if gathers else None

    @property
    def is_quiet(self) -> bool:
        """Whether the next request will probably be committed at once, and alone, as the last one was."""
        return self._leader is None and (self._gathering is None or self._gathering.expects_one)

    async def run(self, request: Request[T, R]) -> R:
        """Have *request* committed and give its result, or raise its error."""
        self._waiting.append(request)
        if self._gathering is not None:
            self._gathering.came()
        try:
            if self._leader is None:
                self._leader = request
            else:
                await request.turn.wait()
            if not request.over:
                await self._lead()
        finally:
            if not request.taken:
                self._waiting.remove(request)
            if self._leader is request:
                self._hand_on()
        if request.error is not None:
            raise fresh(request.error)
        assert request.result is not None
        return request.result

    def _hand_on(self) -> None:
        """Make the first waiting request the leader."""
        self._leader = self._waiting[0] if self._waiting else None
        if self._leader is not None:
            self._leader.turn.set()

    def _next_group(self) -> tuple[list[Request[T, R]], Mapping[str, bytes | None]]:
        """The next group, and the mailboxes that it means: waiting requests that don't contradict each other
        about which mailbox a name means.
        """
        group: list[Request[T, R]] = []
        means: dict[str, bytes | None] = {}
        for request in self._waiting[: self._limit]:
            if not contradict(request.meant, means):
                means.update(request.meant)
                request.taken = True
                group.append(request)
        self._waiting = [request for request in self._waiting if not request.taken]
        return group, means

    async def _lead(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._gathering is not None:
            await self._gathering.gather(self._waiting)
        group, means = self._next_group()
        self.groups += 1
        began = trio.current_time()
        try:
            with trio.CancelScope(shield=True), meaning(*means.items()):
                await self._commit(group)
        except Exception as error:  # noqa: BLE001 - it is every request's own error
            for request in group:
                if not request.over:
                    request.error = error
        except BaseException:
            for request in group:
                if not request.over:
                    request.error = RuntimeError("the commit was broken off")
            raise
        finally:
            if self._gathering is not None:
                self._gathering.ended(len(group) + len(self._waiting), trio.current_time() - began)
            for request in group:
                request.turn.set()


class _Gathering:
    """Decides how long a leader waits, and for how many requests."""

    def __init__(self) -> None:
        self._expected = 1
        self._seconds = 0.0
        self._skip = self._skipped = 0
        self._arrival: trio.Event | None = None

    @property
    def expects_one(self) -> bool:
        """Whether the last group was a single request."""
        return self._expected <= 1

    def came(self) -> None:
        """Tell the waiting leader that a request has come."""
        if self._arrival is not None:
            self._arrival.set()

    def ended(self, expected: int, seconds: float) -> None:
        """Tell that a group was committed.

        :param expected: the number of requests that were in it, or wait behind it.
        """
        self._expected, self._seconds = expected, min(seconds, LONGEST_WAIT)

    async def gather(self, waiting: Sequence[object]) -> None:
        """Wait for as many requests as are expected."""
        before = len(waiting)
        if before >= self._expected:
            return
        if self._skip:
            self._skip -= 1
            return
        try:
            with trio.move_on_after(self._seconds):
                while len(waiting) < self._expected:
                    self._arrival = trio.Event()
                    await self._arrival.wait()
        finally:
            self._arrival = None
        self._skipped = 0 if len(waiting) > before else min(2 * self._skipped or 1, MOST_SKIPPED)
        self._skip = self._skipped
