"""The fuzzer's machine: executions one after the other, each within its bounds, each to be made again.

A :class:`Target` is a codec with valid inputs.  Execution *n* of a target depends on the seed, the target's
name and *n* alone.  It may end in a value, or in one of the project's own errors
(:class:`~dboxfs.errors.DboxfsError`); anything else is a :class:`Fault`, as are more than :data:`SECONDS` of
processor time, no end within :data:`HANG_SECONDS`, and more memory than :func:`most_memory` (looked at every
:data:`MEASURE_EVERY` executions, since that is slow; the process as a whole may take :data:`ADDRESS_SPACE`
more than at its start, at any time).
"""

from __future__ import annotations

import hashlib
import logging
import resource
import signal
import time
import traceback
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from dboxfs.errors import DboxfsError, FormatError
from tests.fuzz.mutate import mutated

SECONDS = 1.0
"""Processor time of one execution."""

HANG_SECONDS = 30
"""Processor time after which an execution is broken off."""

MEASURE_EVERY = 97
ADDRESS_SPACE = 3 << 30


@dataclass(frozen=True, slots=True)
class Target:
    """A codec to be fed.

    :param inputs: valid ones.
    :param run: uses the codec as its callers do; gets a Random for whatever else it decides.
    :param tokens: pieces of its grammar.
    :param make: makes a whole input that is right in its structure; None: there is no such.
    :param weight: of the executions, how many parts are its.
    :param output: bytes that an execution may take beside what its input's size allows.
    """

    name: str
    inputs: Sequence[bytes]
    run: Callable[[bytes, Random], Awaitable[None] | None]
    tokens: Sequence[bytes] = ()
    make: Callable[[Random], bytes] | None = None
    weight: int = 10
    output: int = 16 << 20


@dataclass(frozen=True, slots=True)
class Fault:
    """An execution that ended otherwise than it may."""

    target: str
    number: int
    what: str
    data: bytes


@dataclass(slots=True)
class Figures:
    """What was done.  ``values``, ``errors``: executions that ended so; ``slowest``: seconds, by target."""

    executions: int = 0
    values: int = 0
    errors: int = 0
    seconds: float = 0.0
    slowest: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    most_memory: int = 0
    digest: str = ""
    faults: list[Fault] = field(default_factory=list)


class TooLong(BaseException):
    """Raised by the timer into an execution that doesn't end."""


def most_memory(target: Target, data: bytes) -> int:
    """Bytes that an execution may have allocated at one time."""
    return target.output + 400 * len(data)


def input_of(target: Target, seed: int, number: int) -> tuple[bytes, Random]:
    """The input of an execution, and what it decides by."""
    random = Random(f"{seed}/{target.name}/{number}")
    if target.make is not None and random.random() < 0.4:
        data = target.make(random)
        if random.random() < 0.3:
            return data, random
    else:
        data = random.choice(target.inputs)
    return mutated(random, data, target.inputs, target.tokens), random


class Machine:
    """Runs executions of *targets*, chosen by their weights.

    :param keep: a directory for the inputs of faults; None: they are not kept.
    """

    def __init__(self, targets: Sequence[Target], seed: int, keep: Path | None = None) -> None:
        self.figures = Figures()
        self._seed = seed
        self._keep = keep
        self._turns = [target for target in targets for _ in range(target.weight)]
        Random(f"{seed}").shuffle(self._turns)
        self._digest = hashlib.sha256()

    async def run(self, executions: int, seconds: float, most_faults: int = 20) -> Figures:
        """Up to so many executions, in up to so many seconds (of the clock)."""
        figures, began = self.figures, time.monotonic()
        with _bounds():
            for number in range(executions):
                figures.seconds = time.monotonic() - began
                if figures.seconds > seconds or len(figures.faults) >= most_faults:
                    break
                await self.one(self._turns[number % len(self._turns)], number)
        figures.digest = self._digest.hexdigest()
        return figures

    async def one(self, target: Target, number: int) -> None:
        """One execution."""
        figures = self.figures
        data, random = input_of(target, self._seed, number)
        self._digest.update(hashlib.sha256(data).digest())
        measured = number % MEASURE_EVERY == 0
        if measured:
            tracemalloc.start()
        began = time.process_time()
        what = None
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, HANG_SECONDS)
            waiting = target.run(data, random)
            if waiting is not None:
                await waiting
            figures.values += 1
        except DboxfsError as error:
            figures.errors += 1
            what = _bad_error(error)
        except (Exception, TooLong):  # noqa: BLE001 - whatever it is, it is the fault that was looked for
            what = traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        spent = time.process_time() - began
        if measured:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            figures.most_memory = max(figures.most_memory, peak)
            if peak > most_memory(target, data):
                what = what or f"{peak} bytes of memory for an input of {len(data)} bytes"
        else:
            figures.slowest[target.name] = max(figures.slowest.get(target.name, 0.0), spent)
            if spent > SECONDS:
                what = what or f"{spent:.2f} seconds for an input of {len(data)} bytes"
        figures.executions += 1
        figures.counts[target.name] = figures.counts.get(target.name, 0) + 1
        if what is not None:
            self._fault(Fault(target.name, number, what, data))

    def _fault(self, fault: Fault) -> None:
        self.figures.faults.append(fault)
        if self._keep is not None:
            self._keep.mkdir(parents=True, exist_ok=True)
            (self._keep / f"{fault.target}-{fault.number}").write_bytes(fault.data)
            (self._keep / f"{fault.target}-{fault.number}.txt").write_text(fault.what)


def _bad_error(error: DboxfsError) -> str | None:
    """An error is a line for a person, and damage has an offset that a file can have."""
    text = str(error)
    if not text or len(text) > 2000 or ("\n" in text and isinstance(error, FormatError)):
        return f"an error that is no line: {text[:3000]!r}"
    offset = getattr(error, "offset", 0)
    return None if 0 <= offset < 1 << 64 else f"an error at offset {offset}"


@contextmanager
def _bounds() -> Iterator[None]:
    """The process may not take much more than it has, and is interrupted when an execution doesn't end."""

    def too_long(*_: object) -> None:
        raise TooLong(f"no end within {HANG_SECONDS} seconds")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    before = signal.signal(signal.SIGVTALRM, too_long)
    quiet = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # damage is told of, each time
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)
        logging.disable(quiet)
