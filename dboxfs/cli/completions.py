"""Completions for shells, made of the same parsers as ``--help``: ``python -m dboxfs.cli.completions DIR``.

Writes ``dboxfs.bash``, ``_dboxfs`` (zsh) and ``dboxfs.fish``.  Only this module needs shtab.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping

from dboxfs.cli.main import build_parser, parsers_of
from dboxfs.cli.mount_options import OPTIONS

FILES = {"bash": "dboxfs.bash", "zsh": "_dboxfs", "fish": "dboxfs.fish"}
"""For each shell the name of the file that it looks for."""

_FILE = frozenset({"FILE", "STORE", "STORE|MNT", "SRC", "SOURCE", "FILE.svg"})
_DIRECTORY = frozenset({"DIR", "MOUNTPOINT", "DST"})


def _options() -> str:
    """The words that a shell offers behind ``-o``."""
    return " ".join([f"{name}=" if option.takes else name for name, option in OPTIONS.items()] + ["ro", "rw"])


def _preambles() -> Mapping[str, str]:
    """Functions that complete the last one of several words with commas between them."""
    return {
        "bash": f"""
_dboxfs_mount_options() {{
  local before=
  [[ $1 == *,* ]] && before=${{1%,*}},
  compgen -P "$before" -W "{_options()}" -- "${{1##*,}}"
}}
""",
        "zsh": f"""
_dboxfs_mount_options() {{
  _values -s , 'mount option' {" ".join(f"'{word}'" for word in _options().replace("=", "").split())}
}}
""",
        "fish": "",
    }


def completions() -> Mapping[str, str]:
    """The text for each shell."""
    shtab = importlib.import_module("shtab")
    parser = build_parser()
    for command in parsers_of(parser).values():
        for action in command._actions:  # noqa: SLF001 (argparse has no other way to ask)
            _mark(action, shtab)
    return {shell: str(shtab.complete(parser, shell, preamble=dict(_preambles()))) for shell in FILES}


def _mark(action: argparse.Action, shtab: object) -> None:
    """Mark an argument as a file, a directory or mount options, if its metavar tells."""
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    if action.dest == "options":
        functions = dict.fromkeys(("bash", "zsh"), "_dboxfs_mount_options")
        action.complete = functions  # type: ignore[attr-defined]
    elif metavar in _FILE:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif metavar in _DIRECTORY:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def main(directory: str) -> None:
    """Write the files into *directory*."""
    os.makedirs(directory, exist_ok=True)
    for shell, text in completions().items():
        with open(os.path.join(directory, FILES[shell]), "w", encoding="utf-8") as file:
            file.write(text)


if __name__ == "__main__":
    main(sys.argv[1])
