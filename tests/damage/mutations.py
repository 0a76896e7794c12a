"""Damage to a store, made by chance: the same for the same seed."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

Mutation = Callable[[random.Random, Path], str]


def mutate(root: Path, seed: int) -> list[str]:
    """Damage the store at *root* in one to three ways; gives what was done, for messages of failed tests."""
    rng = random.Random(seed)
    return [rng.choice(MUTATIONS)(rng, root) for _ in range(rng.choice((1, 1, 2, 3)))]


def _files(rng: random.Random, root: Path) -> list[Path]:
    """Message files as often as all others together."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size)
    messages = [path for path in files if path.name.startswith(("u.", "m."))]
    indexes = [path for path in files if path.name.startswith("dovecot.")]
    chosen = rng.choice((messages, messages, indexes))
    return chosen or files


def _file(rng: random.Random, root: Path) -> Path | None:
    files = _files(rng, root)
    return rng.choice(files) if files else None


def _change(rng: random.Random, root: Path, what: str, change: Callable[[bytearray], None]) -> str:
    path = _file(rng, root)
    if path is None:
        return "nothing left"
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return f"{what}: {path.relative_to(root)}"


def flip(rng: random.Random, root: Path) -> str:
    """Some bits here and there."""

    def change(data: bytearray) -> None:
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)

    return _change(rng, root, "flip", change)


def flip_frame(rng: random.Random, root: Path) -> str:
    """A byte of a message header or of metadata, where it hurts."""

    def change(data: bytearray) -> None:
        starts = [at for at in range(len(data) - 1) if data[at] == 1 and data[at + 1] in (2, 3)]
        if starts:
            at = rng.choice(starts) + rng.randrange(40)
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)

    return _change(rng, root, "flip a frame", change)


def cut(rng: random.Random, root: Path) -> str:
    """The end of a file is lost."""

    def change(data: bytearray) -> None:
        del data[rng.randrange(len(data)) :]

    return _change(rng, root, "cut", change)


def nuls(rng: random.Random, root: Path) -> str:
    """A block that was never written."""

    def change(data: bytearray) -> None:
        start = rng.randrange(len(data))
        if rng.random() < 0.5:
            start -= start % 512
        end = min(len(data), start + rng.choice((16, 512, 4096)))
        data[start:end] = bytes(end - start)

    return _change(rng, root, "nuls", change)


def insert(rng: random.Random, root: Path) -> str:
    """Bytes too many in the middle."""

    def change(data: bytearray) -> None:
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice((1, 7, 300)))

    return _change(rng, root, "insert", change)


def remove(rng: random.Random, root: Path) -> str:
    """Bytes too few in the middle."""

    def change(data: bytearray) -> None:
        at = rng.randrange(len(data))
        del data[at : at + rng.choice((1, 16, 600))]

    return _change(rng, root, "remove", change)


def append(rng: random.Random, root: Path) -> str:
    """Garbage at the end."""

    def change(data: bytearray) -> None:
        data += rng.choice((rng.randbytes(rng.randrange(1, 2000)), bytes(4096), b"\x01\x02N", b"2 M1e C5\n"))

    return _change(rng, root, "append", change)


def swap_blocks(rng: random.Random, root: Path) -> str:
    """Two blocks of a file take each other's place."""

    def change(data: bytearray) -> None:
        size = rng.choice((16, 512))
        one, two = (rng.randrange(max(1, len(data) - size)) for _ in range(2))
        if abs(one - two) >= size:
            data[one : one + size], data[two : two + size] = data[two : two + size], data[one : one + size]

    return _change(rng, root, "swap blocks", change)


def swap_files(rng: random.Random, root: Path) -> str:
    """Two files of a kind take each other's name."""
    files = _files(rng, root)
    if not files:
        return "nothing left"
    one = rng.choice(files)
    same = [path for path in files if path.name.split(".")[:3:2] == one.name.split(".")[:3:2] and path != one]
    if not same:
        return "nothing to swap with"
    two = rng.choice(same)
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    return f"swap: {one.relative_to(root)} {two.relative_to(root)}"


def delete(rng: random.Random, root: Path) -> str:
    """A file is gone."""
    path = _file(rng, root)
    if path is None:
        return "nothing left"
    path.unlink()
    return f"delete: {path.relative_to(root)}"


def lose_indexes(rng: random.Random, root: Path) -> str:
    """Index files of one directory, or of all, are gone."""
    names = rng.choice(("dovecot.*index*", "dovecot.*index*.log*", "dovecot.*index", "dovecot.map.index*"))
    paths = sorted(root.rglob(names))
    directories = sorted({path.parent for path in paths})
    chosen = directories if rng.random() < 0.4 else directories[:1]
    for path in paths:
        if path.parent in chosen:
            path.unlink()
    return f"lose {names} of {len(chosen)} directories"


def lose_directory(rng: random.Random, root: Path) -> str:
    """A directory of a mailbox is gone, or its name."""
    found = sorted(root.rglob("dbox-Mails"))
    if not found:
        return "nothing left"
    path = rng.choice(found)
    if rng.random() < 0.5:
        shutil.rmtree(path)
        return f"lose {path.relative_to(root)}"
    os.rename(path, path.with_name("elsewhere"))
    return f"rename {path.relative_to(root)}"


MUTATIONS: tuple[Mutation, ...] = (
    flip, flip, flip_frame, flip_frame, cut, cut, nuls, nuls, insert, remove, append, swap_blocks, swap_files,
    delete, lose_indexes, lose_directory,
)  # fmt: skip
