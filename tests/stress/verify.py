"""What must be there, may be there, and must not be there: the journals against what is shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.stress.journal import Item, Key, Outcome, decide
from tests.stress.served import Report, Shown
from tests.stress.texts import Text
from tests.stress.worker import SHARED


@dataclass(slots=True)
class Common:
    """What belongs to the conductor.

    :ivar prey: by text; what workers get goes from here.
    :ivar shares: file name and store of the messages that all append to, by their first ident.
    """

    prey: dict[str, Item]
    shares: dict[str, tuple[str, int]]


def hunted(outcomes: Sequence[Outcome], common: Common, seen: Counter[Key]) -> None:
    """Decide who got what of the prey.  What was taken is no prey any more."""
    for outcome in outcomes:
        for text in outcome.taken & common.prey.keys():
            del common.prey[text]
    for outcome in outcomes:
        if outcome.open is None or outcome.open.kind not in ("take", "prey"):
            continue
        text = outcome.open.share
        item = common.prey.get(text)
        there = item is not None and seen[item.key] > 0
        if outcome.open.kind == "take":
            done = not there and seen[outcome.open.after[0].key] > 0
        else:
            done = not there and not any(key[2] == text for key in seen)
        if done:
            outcome.items.update(outcome.open.after)
            common.prey.pop(text, None)
        outcome.open = None


def settle(outcomes: Sequence[Outcome], common: Common, seen: Counter[Key], report: Report) -> set[str]:
    """Decide what became of the operations that have no good end; gives the texts that they are about."""
    loose: set[str] = set()
    for outcome in outcomes:
        if outcome.open is not None:
            loose |= {item.text for item in (*outcome.open.before, *outcome.open.after)}
    hunted(outcomes, common, seen)
    certain = Counter(item.key for outcome in outcomes for item in outcome.items.elements())
    certain.update(item.key for item in common.prey.values())
    for worker, outcome in enumerate(outcomes):
        if (operation := outcome.open) is None:
            continue
        done = decide(operation, certain, seen)
        if done is None:
            here = [key for key in seen if key[2] in {i.text for i in (*operation.before, *operation.after)}]
            report(
                f"worker {worker}, operation {operation.number} ({operation.kind}): {outcome.error}: neither "
                f"done nor not done: before {operation.before}, after {operation.after}, seen {here}"
            )
        outcome.settle(bool(done))
    return loose


def compare(
    outcomes: Sequence[Outcome], common: Common, view: Iterable[Shown], store: int, where: str, report: Report
) -> None:
    """Every message of a store is there once, in its place, with its flags, and no other."""
    shares: list[Shown] = []
    others: list[Shown] = []
    for shown in view:
        first = Text.of(shown.item.text).segments[0]
        (shares if first in common.shares else others).append(shown)
    wanted = Counter(item.key for outcome in outcomes for item in outcome.items.elements())
    wanted.update(item.key for item in common.prey.values())
    wanted = Counter({key: count for key, count in wanted.items() if key[0] == store})
    seen = Counter(shown.item.key for shown in others)
    wrong = [f"missing: {told(key, outcomes)}" for key in (wanted - seen).elements()]
    wrong += [f"too much: {told(key, outcomes)}" for key in (seen - wanted).elements()]
    wrong += list(shared(outcomes, common, shares, store))
    for what in wrong:
        report(f"{where}: {what}")


def told(key: Key, outcomes: Sequence[Outcome]) -> str:
    """A message, and the operation that last had to do with it."""
    for worker, outcome in enumerate(outcomes):
        if (last := outcome.last.get(key[2])) is not None:
            return f"{key} (worker {worker}, operation {last.number}, {last.kind})"
    return f"{key} (no operation of this round)"


def shared(outcomes: Sequence[Outcome], common: Common, shown: Sequence[Shown], store: int) -> Iterable[str]:
    """What is wrong with the messages of a store that all append to."""
    for first, name in [(first, name) for first, (name, where) in common.shares.items() if where == store]:
        found = [Text.of(one.item.text) for one in shown if Text.of(one.item.text).segments[0] == first]
        boxes = {one.item.box for one in shown if Text.of(one.item.text).segments[0] == first}
        if len(found) != 1 or boxes != {SHARED}:
            yield f"{SHARED}/{name} is there {len(found)} times, in {sorted(boxes)}"
            continue
        place = f"{store}:{name}:"
        must = {share.removeprefix(place) for o in outcomes for share in o.shares if share.startswith(place)}
        may = {share.removeprefix(place) for o in outcomes for share in o.maybe if share.startswith(place)}
        have = set(found[0].segments[1:])
        for ident in sorted(must - have):
            yield f"{SHARED}/{name} lacks {ident}, whose close returned 0"
        for ident in sorted(have - must - may):
            yield f"{SHARED}/{name} has {ident}, which nobody has written"


def names(
    outcomes: Sequence[Outcome],
    view: Sequence[Shown],
    store: int,
    loose: set[str],
    where: str,
    report: Report,
) -> list[list[Item]]:
    """Every message of a store has the name that it was given; gives those of each worker, as they are now.

    :param loose: texts of operations without a good end: these may be called anything.
    """
    free: dict[Key, list[Shown]] = {}
    for shown in view:
        free.setdefault(shown.item.key, []).append(shown)
    result: list[list[Item]] = []
    waiting: list[tuple[int, Item]] = []
    for worker, outcome in enumerate(outcomes):
        result.append([])
        for item in (item for item in outcome.items.elements() if item.store == store):
            found = [shown for shown in free.get(item.key, []) if called(shown, item)]
            if found:
                free[item.key].remove(found[0])
                result[worker].append(item)
            else:
                waiting.append((worker, item))
    for worker, item in waiting:
        found = free.get(item.key, [])
        if found and item.text in loose:
            shown = found.pop()
            result[worker].append(shown.item)
        elif found:
            report(
                f"{where}: {told(item.key, outcomes)} is called {found[0].item.name}, "
                f"not {item.name or 'UID.eml'}"
            )
            result[worker].append(found.pop().item)
    return result


def called(shown: Shown, item: Item) -> bool:
    """Whether the name is the one that was given, or that of a message without."""
    return shown.item.name in ([item.name] if item.name else [f"{shown.uid}.eml", f"uid-{shown.uid}.eml"])
