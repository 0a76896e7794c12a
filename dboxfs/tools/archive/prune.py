"""``dboxfs archive prune``: generations that nobody wants any more go, then the objects that none needs.

The order, and what a crash after each step leaves: ``ARCHIVE.md``.  Blocking calls.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from msgspec import Struct

from dboxfs.tools.archive.generation import DATA, INDEX, ROWS, made_at
from dboxfs.tools.archive.repository import Repository

REMOVED_AT_ONCE = 200
"""Objects that are removed between two looks at the lock."""


class Pruned(Struct):
    """What came of it: ``generations`` stay, ``removed`` ones went, and ``objects`` of so many ``bytes``."""

    generations: int = 0
    removed: int = 0
    objects: int = 0
    bytes: int = 0


def kept(keys: Sequence[str], daily: int, monthly: int) -> set[str]:
    """Which generations stay: of the last *daily* days and *monthly* months that have some the newest each.

    The newest one of all stays always.  Days and months are those of the process's time zone (``TZ``), as
    everywhere on the command line.

    :param keys: of all generations, the oldest first.
    """
    found = set(keys[-1:])
    dates = {key: datetime.fromtimestamp(made_at(key)) for key in keys}
    for period, count in (("%Y%m%d", daily), ("%Y%m", monthly)):
        newest: dict[str, str] = {}
        for key in keys:
            newest[dates[key].strftime(period)] = key
        found.update(newest[name] for name in sorted(newest)[len(newest) - count :] if count > 0)
    return found


def prune(repository: Repository, daily: int, monthly: int, *, break_lock: bool = False) -> Pruned:
    """Prune the archive, or go on where a prune has died.

    :raises NoSuchStore: there is no generation: nothing was ever archived, or the URL is wrong.
    :raises StoreBusy: another run has the lock, or has taken it away.
    :raises CorruptFile: a generation can't be read; nothing was removed.
    :raises OSError: the object store fails; the same command goes on later.
    """
    repository.opened()
    repository.lock("prune", broken=break_lock)
    try:
        return _prune(repository, daily, monthly)
    finally:
        repository.unlock()


def _prune(repository: Repository, daily: int, monthly: int) -> Pruned:
    result = Pruned()
    keys = repository.generations()
    for key in keys:  # all of them can be read, before one of them goes
        repository.read(key)
    stays = kept(keys, daily, monthly)
    gone = [key for key in keys if key not in stays]
    _remove(repository, gone)
    result.removed = len(gone)
    needed: set[str] = set()
    remaining = repository.generations()
    for key in remaining:
        needed |= repository.read(key).objects.keys()
    result.generations = len(remaining)
    if not remaining:
        return result  # nothing was ever archived, or another one has removed it: what is there is not ours
    there = repository.sizes(DATA) | repository.sizes(INDEX)
    unneeded = sorted(there.keys() - needed)
    _remove(repository, unneeded)
    result.objects, result.bytes = len(unneeded), sum(there[key] for key in unneeded)
    _remove(repository, sorted(repository.sizes(ROWS)))
    return result


def _remove(repository: Repository, keys: Iterable[str]) -> None:
    for number, key in enumerate(keys):
        if number % REMOVED_AT_ONCE == 0:
            repository.check_lock()
        repository.objects.delete(key)
