"""Check the structure of the tree: ``python -m tests.structure``.  Each line that it prints is a fault."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.structure import messages, rules


def main() -> int:
    """Print what breaks a rule; gives the exit status."""
    root = Path(__file__).resolve().parents[2]
    found = [
        *rules.long_modules(root),
        *rules.import_circles(),
        *rules.ambiguous_names(root),
        *rules.stale_pages(root),
        *rules.stale_docstrings(root),
        *rules.stale_diagram(root),
        *rules.unquoted_advice(root),
        *messages.unexpected_messages(root),
    ]
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
