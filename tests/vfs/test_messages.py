"""What is logged, and told: mailboxes are called as people call them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dboxfs
from dboxfs.errors import StoreBusy
from dboxfs.store.write import StoreWriter
from tests.vfs.inside import ONE, Mounted, Program, raises

STORED = "Entw&APw-rfe"
STORED_NAMES = {"folder.name", "folder().name", "draft.folder.name", "note.source", "note.mailbox"}


@pytest.mark.expected_log("messages are removed, but")
async def test_a_log_line_names_a_mailbox_as_its_user_does(
    m: Mounted, p: Program, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def busy(self: StoreWriter, name: str) -> None:
        raise StoreBusy("locked")

    await p.mkdir("Work/Entwürfe")
    for number in range(40):
        await p.write(f"Work/Entwürfe/{number}", ONE)
    monkeypatch.setattr(StoreWriter, "carry_out", busy)
    for number in range(40):
        await p.unlink(f"Work/Entwürfe/{number}")
    with raises(StoreBusy("").errno):
        await m.vfs.finish()
    assert "Work/Entwürfe: messages are removed, but: locked" in caplog.text
    assert STORED not in caplog.text


async def test_a_folder_is_called_what_the_mount_shows(m: Mounted, p: Program) -> None:
    await p.mkdir("Entwürfe")
    await p.mkdir("Entwürfe/Neue")
    assert [str(m.folder(name)) for name in (STORED, f"{STORED}/Neue", "INBOX")] == [
        "Entwürfe",
        "Entwürfe/Neue",
        "INBOX",
    ]
    await m.fs.mkdir(f"{m.location.root}/mailboxes/T&APw-r")
    await m.fs.mkdir(f"{m.location.root}/mailboxes/T&APw-r/T&APw-r")
    await m.store.refresh_tree()
    assert str(m.folder("T&APw-r")) == "Tür"


def test_no_log_line_or_error_is_made_of_the_name_that_a_mailbox_has_on_disk() -> None:
    root = Path(dboxfs.__file__).parent
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for folder in ("store", "vfs", "fuse")
        for path in (root / folder).rglob("*.py")
        for said in said_in(ast.parse(path.read_text()))
        for node in ast.walk(said)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in STORED_NAMES
    ]
    assert found == []


def said_in(tree: ast.AST) -> Iterator[ast.AST]:
    """The arguments of what is logged or raised."""
    for node in ast.walk(tree):
        is_log = isinstance(node, ast.Call) and ast.unparse(node.func).startswith("log.")
        if is_log or isinstance(node, ast.Raise):
            yield node
