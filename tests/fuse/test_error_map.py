"""Errors become errno values in one place; the log says each thing once."""

from __future__ import annotations

import errno

import pytest

from dboxfs.errors import CorruptFile, FormatError, NoSuchMailbox, NoSuchMessage, StoreBusy, Unsupported
from dboxfs.fuse.error_map import ErrorMap


@pytest.mark.parametrize(
    ("error", "number", "lines"),
    [
        (NoSuchMailbox("x"), errno.ENOENT, 0),
        (NoSuchMessage("x"), errno.ENOENT, 0),
        (CorruptFile("/f", 0, "x"), errno.EIO, 0),  # whoever found it has told
        (FormatError(0, "x"), errno.EIO, 0),
        (Unsupported("x"), errno.EOPNOTSUPP, 0),
        (StoreBusy("x"), errno.EBUSY, 1),
        (FileNotFoundError(errno.ENOENT, "x", "/f"), errno.ENOENT, 0),
        (PermissionError(errno.EACCES, "x", "/f"), errno.EACCES, 1),
        (OSError("without a number"), errno.EIO, 1),
        (ZeroDivisionError("a bug"), errno.EIO, 1),
    ],
)
def test_each_error_has_its_number(
    error: Exception, number: int, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert ErrorMap().errno_of(error, "read") == number
    assert len(caplog.records) == lines


def test_a_file_that_cannot_be_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    errors = ErrorMap()
    for _ in range(3):
        for path in ("/a", "/b"):
            assert errors.errno_of(PermissionError(errno.EACCES, "x", path), "read") == errno.EACCES
    assert len(caplog.records) == 2


def test_the_memory_of_what_was_told_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    errors = ErrorMap()
    for n in range(5000):
        errors.errno_of(PermissionError(errno.EACCES, "x", f"/{n}"), "read")
    assert len(errors._logged) <= 1000
