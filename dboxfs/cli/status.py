"""Errors as exit statuses: the one place that decides."""

from __future__ import annotations

from dboxfs.errors import DboxfsError, MountError, NoSuchStore, Unsupported

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_STORE = 3
EXIT_MOUNT = 4


def first_error(error: BaseException) -> BaseException:
    """The error inside of what a nursery wrapped, a known one before any other."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [first_error(one) for one in error.exceptions]
    known = [one for one in inner if isinstance(one, DboxfsError)]
    return (known or inner)[0]


def exit_status(error: BaseException) -> int:
    """The exit status for *error*."""
    match error:
        case NoSuchStore() | Unsupported():
            return EXIT_STORE
        case MountError():
            return EXIT_MOUNT
        case _:
            return EXIT_FAILURE
