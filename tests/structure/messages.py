"""The program's error messages, and which of them no test expects.

A message is the text of an error that the program makes: literal pieces with values between them.  It is
expected where the tests have :data:`SIGN` characters in a row of it that no other message has (of a message
without such characters: any that it has; of a shorter one: its longest piece).
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

SIGN = 12
"""Characters in a row that tell a message from others."""

_ROOTS = ("DboxfsError", "ArgumentTypeError", "ArgumentError", "UsageError")
_METHODS = ("error", "exit")
_LOGS = ("log", "_log", "logger", "logging")
_INSIDE = {"FormatError", "TextGone"}
"""Errors that no user sees: of bytes, which become part of other messages (``tests/dbox``, ``tests/index``);
of a text that went while it was looked for, which the writer then saves anew.
"""

_JOINT = re.compile(r"""["']\n\s*[rf]?["']""")
"""Between two parts of a string."""


class Message(msgspec.Struct, frozen=True):
    """:ivar pieces: the literal text between the values."""

    where: str
    pieces: tuple[str, ...]

    def signs(self) -> set[str]:
        found = {piece[at : at + SIGN] for piece in self.pieces for at in range(len(piece) - SIGN + 1)}
        return found or {max(self.pieces, key=len)}


def messages(root: Path) -> list[Message]:
    """All messages of the program below *root*, in the order of the modules."""
    trees = {path: ast.parse(path.read_text()) for path in sorted((root / "dboxfs").rglob("*.py"))}
    classes = _error_classes(trees.values())
    return [
        Message(f"{path.relative_to(root)}:{node.lineno}", pieces)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _is_error(node, classes)
        for text in [*node.args, *(keyword.value for keyword in node.keywords)]
        for pieces in _texts(text)
    ]


def unexpected_messages(root: Path) -> list[str]:
    """Messages that no test expects, a line each."""
    known = messages(root)
    signs = [message.signs() for message in known]
    count = Counter(sign for group in signs for sign in group)
    tested = _words(sorted((root / "tests").rglob("*.py")))
    found = []
    for message, group in zip(known, signs, strict=True):
        own = {sign for sign in group if count[sign] == 1} or group
        if not any(sign in tested for sign in own):
            found.append(f"{message.where}: no test expects: {'...'.join(message.pieces)}")
    return found


def _error_classes(trees: Iterable[ast.Module]) -> set[str]:
    """Names of the classes of errors."""
    bases = {
        node.name: {_name(base) for base in node.bases}
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = set(_ROOTS)
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def _is_error(node: ast.Call, classes: set[str]) -> bool:
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    if _name(node.func) in _METHODS and owner is not None:
        return _name(owner) not in _LOGS
    return _name(node.func) in classes - _INSIDE


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _texts(node: ast.expr) -> Iterator[tuple[str, ...]]:
    """The literal pieces of each text that an expression can be."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str) and node.value.strip():
            yield (node.value,)
    elif isinstance(node, ast.JoinedStr):
        pieces = tuple(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        if any(piece.strip(" :;,'") for piece in pieces):
            yield pieces
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _texts(node.left)
        yield from _texts(node.right)
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)


def _words(paths: Iterable[Path]) -> str:
    """The text of modules: strings in one piece, and what a regular expression escapes as it is meant."""
    return "\0".join(_JOINT.sub("", path.read_text()).replace("\\", "") for path in paths)
