"""A short run of ``scripts/fuzz``, and that its machine sees every fault that it is there for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from dboxfs.errors import FormatError
from tests.fuzz import machine
from tests.fuzz.__main__ import all_targets
from tests.fuzz.machine import Machine, Target, input_of

EXECUTIONS = int(os.environ.get("DBOXFS_FUZZ", "6000"))
SEED = int(os.environ.get("DBOXFS_FUZZ_SEED", "20"))


async def test_codecs_end_in_a_value_or_an_error_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    targets = all_targets()
    figures = await Machine(targets, SEED).run(EXECUTIONS, seconds=120)
    assert figures.faults == []
    assert figures.executions == EXECUTIONS, "in good time"
    assert figures.values > EXECUTIONS // 10
    assert figures.errors > EXECUTIONS // 10
    assert set(figures.counts) == {target.name for target in targets}, "none was left out"
    with capsys.disabled():
        print(f"\n{figures.executions} executions, seed {SEED}, {figures.seconds:.0f} s", end="")


WITH_DAMAGE_OF_THEIR_OWN = ("body", "location")  # other ends of records by chance, stores that aren't there


@pytest.mark.parametrize(
    "target",
    [target for target in all_targets() if target.name not in WITH_DAMAGE_OF_THEIR_OWN],
    ids=lambda target: target.name,
)
async def test_valid_inputs_are_no_damage(target: Target) -> None:
    for data in target.inputs:
        waiting = target.run(data, Random(7))
        if waiting is not None:
            await waiting


async def test_the_same_seed_makes_the_same_inputs() -> None:
    targets = all_targets()[:6]
    runs = [(await Machine(targets, seed).run(200, 60)).digest for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def _refuses(data: bytes, random: Random) -> None:
    raise FormatError(3, "a reason")


def _wrong_type(data: bytes, random: Random) -> None:
    raise KeyError(data[:1])


def _no_reason(data: bytes, random: Random) -> None:
    raise FormatError(-1, "an offset that can't be")


def _slow(data: bytes, random: Random) -> None:
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass


def _endless(data: bytes, random: Random) -> None:
    while True:
        pass


def _large(data: bytes, random: Random) -> None:
    bytes(10_000_000)


def _huge(data: bytes, random: Random) -> None:
    bytes(1 << 40)


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (_wrong_type, "KeyError"),
        (_no_reason, "at offset -1"),
        (_slow, "seconds for an input"),
        (_endless, "no end within"),
        (_large, "bytes of memory"),
        (_huge, "MemoryError"),
    ],
)
async def test_the_machine_sees_what_a_codec_must_not_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Callable[[bytes, Random], None], what: str
) -> None:
    monkeypatch.setattr(machine, "SECONDS", 0.1)
    monkeypatch.setattr(machine, "HANG_SECONDS", 0.5)
    bad = Target("bad", [b"valid"], run, output=1 << 20)
    figures = await Machine([bad], 1, tmp_path).run(2, seconds=60)
    assert figures.faults, "it was not seen"
    fault = figures.faults[0]
    assert what in fault.what
    assert (tmp_path / f"bad-{fault.number}").read_bytes() == fault.data
    assert input_of(bad, 1, fault.number)[0] == fault.data, "it can be made again"


async def test_an_error_of_the_project_is_no_fault() -> None:
    figures = await Machine([Target("good", [b"valid"], _refuses)], 1).run(50, seconds=60)
    assert (figures.executions, figures.errors, figures.faults) == (50, 50, [])
