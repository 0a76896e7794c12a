"""How commands reach the object store of an archive."""

from __future__ import annotations

import argparse

from dboxfs.fsapi.drivers.object_access import Access

NO_ARCHIVE = "about the server of an archive; STORE is none"


def add_access(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    given = Access()
    parser.add_argument(
        "--ca-file", metavar="FILE",
        help="of an archive: certificates (PEM) that are trusted besides the system's (default: "
        "AWS_CA_BUNDLE)",
    )  # fmt: skip
    parser.add_argument(
        "--request-timeout", metavar="SECONDS", type=seconds, default=given.timeout,
        help=f"of an archive: for one try of one request (default {given.timeout:g})",
    )  # fmt: skip
    parser.add_argument(
        "--request-retries", metavar="N", type=retries, default=given.retries,
        help=f"of an archive: how often a request is tried again (default {given.retries})",
    )  # fmt: skip


def access_of(arguments: argparse.Namespace) -> Access:
    """What the options say."""
    return Access(arguments.ca_file, arguments.request_timeout, arguments.request_retries)


def seconds(text: str) -> float:
    """A number of seconds, 0.1 to 3600.

    :raises argparse.ArgumentTypeError: it is none.
    """
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.1 <= found <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 3600")
    return found


def retries(text: str) -> int:
    """A number, 0 to 100.

    :raises argparse.ArgumentTypeError: it is none.
    """
    if not (text.isascii() and text.isdigit() and int(text) <= 100):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 100")
    return int(text)
