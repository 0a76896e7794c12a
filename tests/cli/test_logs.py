"""The log is one line a record, whatever the names in it are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from dboxfs.cli.logs import log_to, one_line
from dboxfs.cli.status import exit_status, first_error, message
from dboxfs.errors import CorruptFile, DboxfsError, MountError, NoSuchStore, Unsupported


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield root
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_name_cannot_forge_a_line_or_break_the_log(tmp_path: Path, root_logger: logging.Logger) -> None:
    file = tmp_path / "log"
    log_to(str(file), "info", foreground=True)
    logging.getLogger("dboxfs").error("%s: bad", "a\n2026-01-01 dboxfs ERROR: forged\x1b[2J\udce9é")
    (line,) = file.read_text(encoding="utf-8").splitlines()
    assert line.endswith("a\\x0a2026-01-01 dboxfs ERROR: forged\\x1b[2J\\udce9é: bad")


def test_the_level_counts_and_the_file_may_be_rotated(tmp_path: Path, root_logger: logging.Logger) -> None:
    file = tmp_path / "log"
    log_to(str(file), "warning", foreground=False)
    logger = logging.getLogger("dboxfs")
    logger.info("not this")
    logger.warning("first")
    file.rename(tmp_path / "log.1")
    logger.warning("second")
    assert [path.read_text().split(": ")[1] for path in (tmp_path / "log.1", file)] == ["first\n", "second\n"]


def test_one_line_leaves_text_alone() -> None:
    assert one_line("Trés “good” 50% \\x0a") == "Trés “good” 50% \\x0a"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (NoSuchStore("a"), 3, "a"),
        (Unsupported("b"), 3, "b"),
        (MountError("c"), 4, "c"),
        (CorruptFile("/f", 7, "bad"), 1, "/f: damaged at offset 7: bad"),
        (PermissionError(13, "Permission denied", "/x"), 1, "/x: Permission denied"),
        (OSError("odd"), 1, "odd"),
        (ValueError("bug"), 1, None),
    ],
)
def test_each_error_has_a_status_and_a_line(error: Exception, status: int, text: str | None) -> None:
    assert exit_status(error) == status
    assert message(error) == text


def test_of_a_group_the_interrupt_counts_then_a_bug_then_what_is_known() -> None:
    known, bug, interrupt = DboxfsError("known"), ValueError("bug"), KeyboardInterrupt()
    assert first_error(ExceptionGroup("", [known, ExceptionGroup("", [bug])])) is bug
    assert first_error(BaseExceptionGroup("", [known, bug, interrupt])) is interrupt
    assert first_error(ExceptionGroup("", [ExceptionGroup("", [known])])) is known
