"""The documentation site, before mkdocs sees it: ``scripts/docs`` builds it and checks all links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dboxfs.cli.main import COMMANDS
from dboxfs.vfs.metrics import GAUGES

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("docs") / "site"
    subprocess.run(
        [sys.executable, ROOT / "docs/stage.py", to], check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    return to


def test_every_page_is_in_the_navigation_and_every_link_leads_to_one(staged: Path) -> None:
    pages = {path.name: path.read_text() for path in (staged / "pages").glob("*.md")}
    named = re.findall(r": ([\w-]+\.md)$", (staged / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(pages)
    for name, text in pages.items():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            assert target in pages or target.startswith("https://"), f"{name}: {target}"


def test_reference_pages_have_every_command_and_metric(staged: Path) -> None:
    options = (staged / "pages/options.md").read_text()
    assert [name for name in COMMANDS if f"\n## {name}\n" not in options] == []
    assert "`--io {auto,threads,uring}`" in options, "values that an option takes"
    metrics = (staged / "pages/metrics.md").read_text()
    assert [name for name in GAUGES if f"`dboxfs_{name}`" not in metrics] == []
    assert len(re.findall(r"^\* ", (staged / "pages/messages.md").read_text(), re.MULTILINE)) > 100
