"""The manual pages: every command and option is documented, and groff takes them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dboxfs.cli import manual
from dboxfs.cli.configuration import options_of
from dboxfs.cli.help_texts import EXAMPLES_HELP
from dboxfs.cli.main import COMMANDS, command_parsers
from dboxfs.cli.mount_options import OPTIONS, OPTIONS_HELP


def plain(page: str) -> str:
    return manual.pages()[page].replace("\\-", "-").replace("\\e", "\\").replace("\\&", "")


def test_every_option_of_every_command_has_a_word_of_help() -> None:
    for name, parser in command_parsers().items():
        for action in parser._actions:
            if action.option_strings:
                assert action.help, f"{name}: {action.option_strings}"


def test_every_mount_option_is_in_the_help_of_mount() -> None:
    for name in [*OPTIONS, "ro", "rw"]:
        assert f"  {name}=" in OPTIONS_HELP or f"  {name} " in OPTIONS_HELP or f", {name}=" in OPTIONS_HELP, (
            name
        )


def test_every_command_and_option_is_in_the_manual() -> None:
    program, helper, file = (plain(page) for page in ("dboxfs.1", "mount.dboxfs.8", "dboxfs.toml.5"))
    for name, parser in command_parsers().items():
        assert f".SS {name}\n{COMMANDS[name][2]}." in program
        for action in parser._actions:
            for option in action.option_strings:
                assert option in program, f"{name} {option}"
        if options_of(parser):
            assert f".B [{name}]\n{', '.join(options_of(parser))}" in file
    for name in OPTIONS:
        assert name in helper


def test_the_manual_says_what_each_command_does_and_what_its_help_says_below_the_options() -> None:
    program = plain("dboxfs.1")
    for name, parser in command_parsers().items():
        for line in (parser.description or "").splitlines() + (parser.epilog or "").splitlines():
            assert line.strip() in program or line.startswith("exit status: 0 done"), f"{name}: {line}"


def test_the_examples_of_the_manual_are_commands_and_options_that_there_are() -> None:
    parsers = command_parsers()
    lines = [line.strip() for line in EXAMPLES_HELP.splitlines() if "dboxfs " in line]
    used = [words.split() for line in lines for words in re.findall(r"dboxfs ([^&]+)", line)]
    assert {words[0] for words in used} >= {"mount", "ls", "status", "stats", "umount", "undelete", "doctor"}
    for words in used:
        parsers[words[0]].parse_args(words[1:])
    plain_page = plain("dboxfs.1")
    assert all(line in plain_page for line in lines)


@pytest.mark.parametrize("page", ["dboxfs.1", "mount.dboxfs.8", "dboxfs.toml.5"])
def test_the_pages_are_roff_without_a_warning(tmp_path: Path, page: str) -> None:
    manual.main(str(tmp_path))
    text = (tmp_path / page).read_text()
    requests = {line.split()[0] for line in text.splitlines() if line.startswith(".")}
    assert requests <= {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".I", ".BR", ".IR", ".nf", ".fi"}
    groff = shutil.which("groff")
    if groff is not None:
        done = subprocess.run([groff, "-man", "-Tutf8", "-ww", "-z", tmp_path / page], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
