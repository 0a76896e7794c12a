"""What all tests share: one private Dovecot a session, mounts that are always taken down again.

A test that makes Dovecot log a warning or an error fails, unless it carries
``@pytest.mark.expected_log("part of the line", …)``.

Markers say what a test needs, so that the others can be chosen: ``dovecot`` (a private Dovecot, which needs
root) and ``mount`` (the kernel's FUSE) are given here, by the fixtures and helpers that a test uses; ``root``
is written where it is needed.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

import dboxfs.fuse  # noqa: F401 - its hook works only if it is loaded before any test imports pyfuse3
from tests import counted

pytest.register_assert_rewrite("tests.live.equal")

from tests.fsapi.s3_server import FaultyServer, endpoint, served  # noqa: E402
from tests.live.dovecot import Dovecot  # noqa: E402
from tests.live.mounts import Mounts  # noqa: E402

if not os.environ.get("DBOXFS_RANDOM"):  # what a run finds, the next one finds, too
    hypothesis.settings.register_profile("repeatable", derandomize=True)
    hypothesis.settings.load_profile("repeatable")

_MOUNTING = ("mounted", "Mounts", "Serving", "serving", "is_mounted")
"""Helpers that make mounts; a test module that imports one of them mounts."""


_LONG = ("through", "stress", "kills", "crash", "model", "damage", "clients")
"""Folders with files of a minute."""
_MIDDLING = ("live", "fuse_rw", "fuse", "tools", "cli")
"""Folders with mounts."""


def pytest_configure(config: pytest.Config) -> None:
    os.environ["DBOXFS_CONFIG"] = "none"  # nothing of this machine's
    config.option.loadscopereorder = False  # a parallel run keeps the order of the files: _turn
    counted.plug_in(config)
    config.addinivalue_line("markers", "expected_log(*parts): log lines with these parts are no failure")
    config.addinivalue_line("markers", "dovecot: needs a Dovecot (and root, to start it)")
    config.addinivalue_line("markers", "mount: needs /dev/fuse and the right to mount")
    config.addinivalue_line("markers", "root: needs root for something else")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        if "dovecot_daemon" in item.fixturenames:
            item.add_marker("dovecot")
        if "mounts" in item.fixturenames or any(hasattr(item.module, name) for name in _MOUNTING):
            item.add_marker("mount")
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """The turn of the item's file.  The long files come first, so that at the end all processes have work."""
    folder = item.path.relative_to(Path(__file__).parent).parts[0]
    if folder in _LONG:
        return _LONG.index(folder)
    return len(_LONG) + (folder not in _MIDDLING)


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_open() -> Iterator[None]:
    """What the tests of a module leave open is an error of that module.

    Without this a later test has it, in which the garbage collector happens to find the file.
    """
    yield
    gc.collect()


@pytest.fixture(scope="session")
def dovecot_daemon() -> Iterator[Dovecot]:
    with Dovecot() as daemon:
        yield daemon


def _unexpected(request: pytest.FixtureRequest, lines: list[str]) -> list[str]:
    parts = [part for marker in request.node.iter_markers("expected_log") for part in marker.args]
    return [line for line in lines if not any(part in line for part in parts)]


@pytest.fixture
def dovecot(dovecot_daemon: Dovecot, request: pytest.FixtureRequest) -> Iterator[Dovecot]:
    """The session's Dovecot; the test fails when Dovecot logs a warning or an error meanwhile."""
    before = len(dovecot_daemon.log_lines())
    yield dovecot_daemon
    assert _unexpected(request, dovecot_daemon.log_lines()[before:]) == []


@pytest.fixture
def mounts(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Mounts]:
    """Mounts stores with ``dboxfs mount``; afterwards unmounts all and looks at their logs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
    with Mounts(tmp_path) as made:
        yield made
        lines = made.log_lines()
    assert _unexpected(request, lines) == []


@pytest.fixture
def time_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets this process's time zone, as TZ has it (``XYZ-3``: three hours before UTC)."""

    def set_zone(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield set_zone
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyServer]:
    """An S3 server, which fails as a test says, and which the environment names: ``s3://bucket``."""
    with served() as running:
        for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("REGION", "r")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint(running))
        yield running
