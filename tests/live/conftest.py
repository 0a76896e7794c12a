"""What the live tests share beyond the daemon and the mounts."""

from __future__ import annotations

import pytest

from tests.live.equal import Tally

_TALLY = pytest.StashKey[Tally]()


@pytest.fixture
def tally(pytestconfig: pytest.Config) -> Tally:
    """Counts what was compared with Dovecot, over the whole session."""
    return pytestconfig.stash.setdefault(_TALLY, Tally())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    tally = config.stash.get(_TALLY, None)
    if tally is not None:
        what = f"{tally.messages} messages ({tally.bytes} bytes) in {tally.mailboxes} mailboxes"
        terminalreporter.write_line(f"compared with Dovecot: {what}")
