"""Several operations, one after the other, with one hop to a worker.

A protocol of many small steps (open, lock, stat, read; append, sync) pays a hop to a worker and back for each
step, and most steps take less time than the hop.  :meth:`FileSystem.run_chain
<dboxfs.fsapi.filesystem.FileSystem.run_chain>` has a worker carry out a *program*: a generator that yields
operations, is sent their answers, and gets their OSErrors raised where it yielded::

    def program() -> Steps[int]:
        opened = yield Open(path)
        try:
            data = yield Read(opened.fd, 40, 0)
        finally:
            yield Close(opened.fd)
        return len(data)

    size = await fs.run_chain(program)

A driver that can't run chains (``Capabilities.chains``; the faults driver is one) gets the operations one at
a time.  So the crash tests can put a fault or a crash between any two steps of a chain, too.

Rules for a program: it runs on a worker's thread, so it changes no data that other tasks or threads see, and
calls nothing of trio; it is short, since it can't be cancelled; it yields nothing but operations.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, ClassVar, TypeAlias, TypeVar

from dboxfs.fsapi.ops import Op

R = TypeVar("R")
T = TypeVar("T")

Steps: TypeAlias = Generator[Op[Any], Any, T]
"""A program: it yields operations, is sent their answers, and returns a ``T``."""


class Chain(Op[R], frozen=True):
    """Run a program to its end; its answer is what the program returns or raises."""

    kind: ClassVar[str] = "chain"
    program: Callable[[], Steps[R]]


def execute_chain(chain: Chain[R], execute: Callable[[Op[Any]], Any]) -> R:
    """Run a chain's program with *execute* (called by drivers, on any thread)."""
    steps = chain.program()
    try:
        op = next(steps)
        while True:
            try:
                answer = execute(op)
            except OSError as error:
                op = steps.throw(error)
            else:
                op = steps.send(answer)
    except StopIteration as end:
        result: R = end.value
        return result
