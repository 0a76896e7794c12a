"""Group commit: requests that are ready together are carried out together.

Whoever comes first becomes the leader and takes everything that waits; those who come while it works form
the next group.  There is no task of its own and no delay: with one writer a group has one request, with many
it has as many as were made during one commit.

Cancellation: a request that waits is withdrawn (``taken`` stays False, its owner cleans up); one that a
leader has taken is carried out, and only its owner no longer hears of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import trio

from dboxfs.fsapi.ops import fresh

R = TypeVar("R")
T = TypeVar("T")


class Request(Generic[T, R]):
    """Something to be committed, and what came of it."""

    __slots__ = ("error", "result", "taken", "what")

    def __init__(self, what: T) -> None:
        self.what = what
        self.taken = False
        self.result: R | None = None
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether its outcome is known."""
        return self.result is not None or self.error is not None


class GroupCommit(Generic[T, R]):
    """One queue.  *commit* gives every request of a group a ``result`` or an ``error``, or raises for all."""

    def __init__(
        self, commit: Callable[[Sequence[Request[T, R]]], Awaitable[None]], limit: int = 1000
    ) -> None:
        self.groups = 0
        self._commit = commit
        self._limit = limit
        self._waiting: list[Request[T, R]] = []
        self._lock = trio.Lock()

    async def run(self, request: Request[T, R]) -> R:
        """Have *request* committed and give its result, or raise its error."""
        self._waiting.append(request)
        try:
            async with self._lock:
                if not request.over:
                    await self._lead()
        finally:
            if not request.taken and request in self._waiting:
                self._waiting.remove(request)
        if request.error is not None:
            raise fresh(request.error)
        assert request.result is not None
        return request.result

    async def _lead(self) -> None:
        group, self._waiting = self._waiting[: self._limit], self._waiting[self._limit :]
        for request in group:
            request.taken = True
        self.groups += 1
        try:
            with trio.CancelScope(shield=True):
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
