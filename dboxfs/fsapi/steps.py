"""Run operations to their end: for protocols that are made of many single steps.

A caller that follows a protocol has to know which of its steps were done.  Cancellation therefore never drops
a submitted step: each function here returns when all of its operations have ended, and the cancellation is
raised at the caller's next checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import trio

from dboxfs.fsapi.chain import Chain, Steps
from dboxfs.fsapi.engine import Engine
from dboxfs.fsapi.ops import Job, Op

R = TypeVar("R")


async def run(engine: Engine, op: Op[R]) -> R:
    """Run one operation.  Not a checkpoint for cancellation.

    :raises OSError: the operation's; EBADF: the file system is closed.
    """
    (answer,) = await run_all(engine, [op])
    if isinstance(answer, OSError):
        raise answer
    return answer


async def run_all(engine: Engine, batch: Sequence[Op[R]]) -> list[R | OSError]:
    """Run operations side by side: an answer or an error for each, in their order.

    :raises OSError: EBADF: the file system is closed.
    """
    engine.check_running()
    missing, task = len(batch), trio.lowlevel.current_task()

    def done(job: Job[R]) -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            trio.lowlevel.reschedule(task)

    jobs = [engine.submit(op, done) for op in batch]
    if jobs:
        await trio.lowlevel.wait_task_rescheduled(_go_on)
    answers: list[R | OSError] = []
    for job in jobs:
        try:
            answers.append(job.value())
        except OSError as error:
            answers.append(error.with_traceback(None))  # its frames would keep all answers
    return answers


def _go_on(_: object) -> trio.lowlevel.Abort:
    """Refuse to abort: submitted operations end first; the next checkpoint raises the cancellation."""
    return trio.lowlevel.Abort.FAILED


async def run_chain(engine: Engine, program: Callable[[], Steps[R]]) -> R:
    """Run a program (:mod:`dboxfs.fsapi.chain`): by one worker, or, if the driver has no chains, operation by
    operation.

    :raises OSError: an operation's, if the program lets it out; EBADF: the file system is closed.
    """
    if engine.driver.capabilities.chains:
        return await run(engine, Chain(program))
    return await _run_stepwise(engine, program())


async def run_chain_soon(engine: Engine, program: Callable[[], Steps[R]], at_once: Op[R] | None = None) -> R:
    """As :func:`run_chain`, for a program that takes microseconds unless the disk stalls.

    Other tasks may get no turn before it has ended: the event loop waits for it, for a millisecond at most
    (:mod:`dboxfs.fsapi.drivers.lane`).

    :param at_once: an operation that does what the program does, for a driver with a lane.
    """
    over: trio.Event | None = None
    ended: list[Job[R]] = []

    def done(job: Job[R]) -> None:
        ended.append(job)
        if over is not None:
            over.set()

    if not engine.has_lane:
        return await run_chain(engine, program)
    op = at_once or Chain(program)
    if not engine.run_soon(op, done):
        return await run(engine, op)
    if not ended:
        over = trio.Event()
        with trio.CancelScope(shield=True):
            await over.wait()
    return ended[0].value()


async def _run_stepwise(engine: Engine, steps: Steps[R]) -> R:
    try:
        op = next(steps)
        while True:
            try:
                answer = await run(engine, op)
            except OSError as error:
                op = steps.throw(error)
            else:
                op = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result
