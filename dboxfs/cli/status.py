"""The one place that turns errors into an exit status and a line for the user."""

from __future__ import annotations

import argparse

from dboxfs.errors import DboxfsError, MountError, NoSuchStore, Unsupported

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_STORE = 3
EXIT_MOUNT = 4
EXIT_INTERRUPTED = 130


class UsageError(DboxfsError):
    """The command line is wrong in a way that argparse doesn't see."""


def new_root(text: str) -> str:
    """An argument that names the directory of a new store.

    :raises argparse.ArgumentTypeError: it is empty (an unset variable of a script), or a mail location.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a directory")
    driver, colon, rest = text.partition(":")
    if colon and driver.lower() in ("sdbox", "mdbox", "dbox"):
        raise argparse.ArgumentTypeError(
            f"{text!r}: a new store is named by its directory ({rest.split(':')[0]}) and --format; "
            "dboxfs init makes an empty one with INDEX= and the like"
        )
    return text


def first_error(error: BaseException) -> BaseException:
    """The error to report of a group: an interrupt first, then a bug (no known error), then any other."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    inner = [first_error(one) for one in error.exceptions]
    interrupts = [one for one in inner if not isinstance(one, Exception)]
    unknown = [one for one in inner if message(one) is None]
    return (interrupts or unknown or inner)[0]


def message(error: BaseException) -> str | None:
    """One line for the user; None: dboxfs doesn't expect such an error: it is a bug."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    return str(error) if isinstance(error, DboxfsError | OSError) else None


def exit_status(error: BaseException) -> int:
    """The exit status for *error*."""
    match error:
        case UsageError():
            return EXIT_USAGE
        case NoSuchStore() | Unsupported():
            return EXIT_STORE
        case MountError():
            return EXIT_MOUNT
        case _:
            return EXIT_FAILURE
