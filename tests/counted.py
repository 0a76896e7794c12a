"""What a test run counts beside its tests (crash points, messages that were compared), and says at its end.

Workers of a parallel run send what they have counted to the process that reports.
"""

from __future__ import annotations

import sys
from typing import Protocol

import pytest

COUNTED = pytest.StashKey[dict[str, dict[str, int]]]()
_KEY = "counted"


class Node(Protocol):
    """A worker that has ended."""

    workeroutput: dict[str, dict[str, dict[str, int]]]


def of(config: pytest.Config, title: str) -> dict[str, int]:
    """The counts of this session under *title* (of what): name -> count, to be added to."""
    return config.stash.setdefault(COUNTED, {}).setdefault(title, {})


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[_KEY] = session.config.stash.get(COUNTED, {})


class Collector:
    """Adds up what workers send."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Node) -> None:
        for title, counts in getattr(node, "workeroutput", {}).get(_KEY, {}).items():
            known = of(self._config, title)
            for name, count in counts.items():
                known[name] = known.get(name, 0) + count


def plug_in(config: pytest.Config) -> None:
    """Count in the session of *config*."""
    config.pluginmanager.register(sys.modules[__name__], "counted")
    config.pluginmanager.register(Collector(config), "counted-collector")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for title, counts in config.stash.get(COUNTED, {}).items():
        for name, count in counts.items() if len(counts) > 1 else ():
            terminalreporter.write_line(f"{title}: {count:4d}  {name}")
        terminalreporter.write_line(f"{title}: {sum(counts.values()):4d}  in all")
