"""A dump of the daemon for its log (SIGUSR1): every task and request of the event loop, every thread.

A request that is being answered is awaited by a coroutine of pyfuse3's, which can't be inspected. So requests
are searched among all objects: they are the coroutines that wait and have no visible awaiter.
"""

from __future__ import annotations

import gc
import sys
import threading
import types
from collections.abc import Iterator

import trio

_FRAMES = 7
"""Calls that are shown of each, the innermost first."""

_Call = tuple[types.CodeType, int]
_QUIET = ("_real_async_yield", "wait_task_rescheduled")


def report() -> list[str]:
    """One line for each task, request and thread.  Call it in the loop's thread."""
    root = trio.lowlevel.current_root_task()
    tasks = list(_below(root)) if root is not None else []
    waiting = [f"task {task.name}: {_where(_awaits(task.coro))}" for task in tasks]
    requests = [f"request {coro.__qualname__}: {_where(_awaits(coro))}" for coro in _requests(tasks)]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    threads = [
        f"thread {names.get(ident, ident)}: {_where(_calls(frame))}"
        for ident, frame in sys._current_frames().items()  # noqa: SLF001 - there is no public one
        if ident != threading.get_ident()
    ]
    return waiting + requests + threads


def _below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _below(child)


def _requests(tasks: list[trio.lowlevel.Task]) -> list[types.CoroutineType[object, object, object]]:
    # Not isinstance: it follows a weak proxy to its object, which may be gone.
    all_of_them = [some for some in gc.get_objects() if type(some) is types.CoroutineType]
    waiting = [coro for coro in all_of_them if coro.cr_frame is not None and coro.cr_await is not None]
    known = {id(coro.cr_await) for coro in waiting} | {id(task.coro) for task in tasks}
    return [coro for coro in waiting if id(coro) not in known]


def _awaits(waits: object) -> list[_Call]:
    """The chain of calls that a coroutine waits in, as far as Python shows it; the innermost first."""
    found: list[_Call] = []
    while waits is not None:
        frame = next((f for kind in ("cr", "gi", "ag") if (f := getattr(waits, f"{kind}_frame", None))), None)
        if frame is not None:
            found.insert(0, (frame.f_code, frame.f_lineno))
        names = ("cr_await", "gi_yieldfrom", "ag_await")
        waits = next((inner for name in names if (inner := getattr(waits, name, None)) is not None), None)
    return found


def _calls(frame: types.FrameType | None) -> list[_Call]:
    found = []
    while frame is not None:
        found.append((frame.f_code, frame.f_lineno))
        frame = frame.f_back
    return found


def _where(calls: list[_Call]) -> str:
    shown = [
        f"{code.co_name} ({'/'.join(code.co_filename.split('/')[-2:])}:{line})"
        for code, line in calls
        if code.co_name not in _QUIET
    ]
    return " < ".join(shown[:_FRAMES]) or "running"
