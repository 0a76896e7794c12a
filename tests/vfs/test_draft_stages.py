"""What a draft is, and what becomes of it: every stage and every event."""

from __future__ import annotations

import pytest

from dboxfs.store import Folder
from dboxfs.vfs.draft_stages import TABLE, DraftEvent, Stage, Standing

FOLDER = Folder("x", "x", None, None)

NEW, DOT, GHOST, NAMELESS, STAGED, MESSAGE, REMOVED = Stage

SAYS = """
OPENED      NEW       TEMPORARY NEW       NAMELESS STAGED    MESSAGE  REMOVED
EMPTY       GHOST     -         -         -        -         -        -
CLOSED      STAGED    -         -         -        STAGED    -        REMOVED
COMMITTED   MESSAGE   MESSAGE   -         MESSAGE  MESSAGE   MESSAGE  REMOVED
MOVED       -         -         -         -        -         MESSAGE  REMOVED
EXPUNGED    -         -         -         -        -         NEW      REMOVED
TO_PLAIN    NEW       NEW       GHOST     -        STAGED    -        -
TO_DOT      TEMPORARY TEMPORARY TEMPORARY -        TEMPORARY -        -
ONTO        MESSAGE   MESSAGE   REMOVED   -        -         -        -
NAME_TAKEN  NAMELESS  REMOVED   REMOVED   NAMELESS REMOVED   NAMELESS REMOVED
REMOVED     REMOVED   REMOVED   REMOVED   REMOVED  REMOVED   REMOVED  REMOVED
KEPT        -         -         -         -        -         -        MESSAGE
"""
"""By event; the stages NEW, TEMPORARY, GHOST, NAMELESS, STAGED, MESSAGE, REMOVED."""

ROWS = {line.split()[0]: line.split()[1:] for line in SAYS.strip().splitlines()}
CASES = [
    (stage, DraftEvent[event], None if after == "-" else Stage[after])
    for event, row in ROWS.items()
    for stage, after in zip(Stage, row, strict=True)
]


def standing(stage: Stage, name: bytes = b"note") -> Standing:
    return Standing(stage, FOLDER, name, None, 7 if stage in (MESSAGE, REMOVED) else None)


@pytest.mark.parametrize(("stage", "event", "after"), CASES)
def test_each_event_leads_each_stage_where_the_table_says(
    stage: Stage, event: DraftEvent, after: Stage | None
) -> None:
    if after is None:
        with pytest.raises(KeyError):
            standing(stage).after(event)
    else:
        assert standing(stage).after(event).stage is after


def test_the_table_knows_every_event() -> None:
    assert set(TABLE) == set(DraftEvent) == {DraftEvent[name] for name in ROWS}


@pytest.mark.parametrize(("name", "stage"), [(b"note", NEW), (b".note", DOT)])
def test_what_is_left_of_an_expunged_message_depends_on_the_name(name: bytes, stage: Stage) -> None:
    assert standing(MESSAGE, name).after(DraftEvent.EXPUNGED).stage is stage


def test_a_message_that_is_kept_when_its_name_is_gone_is_nameless() -> None:
    gone = Standing(REMOVED, FOLDER, b"note", None, None)
    assert gone.after(DraftEvent.KEPT).stage is NAMELESS


@pytest.mark.parametrize(
    ("name", "uid", "stage"),
    [(b"note", None, NEW), (b".note", None, DOT), (b"note", 3, MESSAGE), (b".n", 3, MESSAGE)],
)
def test_what_a_file_is_when_it_is_opened(name: bytes, uid: int | None, stage: Stage) -> None:
    assert Standing.of(FOLDER, name, uid).stage is stage


def test_nothing_but_a_draft_changes_what_it_is() -> None:
    with pytest.raises(AttributeError):
        standing(NEW).stage = REMOVED  # type: ignore[misc]
