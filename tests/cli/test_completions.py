"""Completions: every command and option is offered, and the shells take them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from dboxfs.cli import completions
from dboxfs.cli.main import COMMANDS, command_parsers
from dboxfs.cli.mount_options import OPTIONS


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("completions")
    completions.main(str(directory))
    return directory


@pytest.mark.parametrize("shell", list(completions.FILES))
def test_every_command_and_long_option_is_offered(files: Path, shell: str) -> None:
    text = (files / completions.FILES[shell]).read_text()
    for command, parser in command_parsers().items():
        assert command in text
        for action in parser._actions:
            for option in action.option_strings:
                word = option.lstrip("-") if shell == "fish" else option
                assert word in text, f"{command} {option}"
    program = shutil.which(shell)
    if program is not None:
        done = subprocess.run([program, "-n", files / completions.FILES[shell]], capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")


def completed(files: Path, *words: str) -> set[str]:
    """What bash offers for the last of *words*."""
    script = """
        source "$0"
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _shtab_dboxfs
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    command = ["bash", "-c", script, str(files / "dboxfs.bash"), "dboxfs", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=files)
    return set(done.stdout.split())


def test_bash_completes_commands_options_files_and_mount_options(files: Path) -> None:
    assert completed(files, "un") == {"undelete"}
    assert completed(files, "u") == {name for name in COMMANDS if name.startswith("u")}
    assert completed(files, "mount", "--cache-") == {"--cache-dir", "--cache-size"}
    assert completed(files, "mount", "--io", "th") == {"threads"}
    assert completed(files, "mount", "-o", "rw,fs") == {"rw,fsync="}
    assert {f"rw,{name}" for name in ("alone", "restore", "gid=")} <= completed(files, "mount", "-o", "rw,")
    (files / "a store").mkdir()
    assert completed(files, "mount", "a") == {"a", "store"}


def test_every_mount_option_is_offered(files: Path) -> None:
    offered = completed(files, "mount", "-o", "")
    assert offered == {f"{name}=" if OPTIONS[name].takes else name for name in OPTIONS} | {"ro", "rw"}
