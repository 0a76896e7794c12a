"""Options from files and the environment: which counts, and what is wrong is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.cli import configuration
from dboxfs.cli.main import COMMANDS, command_parsers, main

Write = Callable[[str], Path]


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the system's file."""
    path = tmp_path / "etc/dboxfs.toml"
    path.parent.mkdir()
    monkeypatch.delenv("DBOXFS_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(configuration, "SYSTEM_FILE", str(path))

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


@pytest.fixture
def user(tmp_path: Path) -> Write:
    """Writes the user's file."""
    path = tmp_path / "xdg/dboxfs/dboxfs.toml"

    def write(text: str) -> Path:
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return path

    return write


def shown(capsys: pytest.CaptureFixture[str], command: str = "mount") -> dict[str, str]:
    capsys.readouterr()
    assert main(["config", command]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if " = " in line]
    return dict(line.split(" = ", 1) for line in lines)


def test_without_files_the_defaults_are_shown(system: Write, capsys: pytest.CaptureFixture[str]) -> None:
    found = shown(capsys)
    assert found["workers"] == "10  # default"
    assert found["options"] == "[]  # default"
    assert found["log-file"] == '""  # default'


def test_the_users_file_wins_over_the_systems_and_the_environment_over_both(
    system: Write, user: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = system('[mount]\nworkers = 3\ncache-size = "1M"\nio = "threads"\noptions = "allow_other"\n')
    second = user('[mount]\nworkers = 4\nksm = true\noptions = ["gid=8", "umask=022"]\n')
    monkeypatch.setenv("DBOXFS_MOUNT_IO", "auto")
    found = shown(capsys)
    assert found["cache-size"] == f"{1 << 20}  # {first} [mount]"
    assert found["workers"] == f"4  # {first} [mount], {second} [mount]"
    assert found["ksm"] == f"true  # {second} [mount]"
    assert found["io"] == f'"auto"  # {first} [mount], DBOXFS_MOUNT_IO'
    assert found["options"].startswith('["allow_other", "gid=8", "umask=022"]  # ')


def test_the_command_line_wins(system: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    system('[init]\nformat = "sdbox"\n')
    assert main(["init", str(tmp_path / "one")]) == 0
    assert main(["init", str(tmp_path / "two"), "--format", "mdbox"]) == 0
    assert "an empty sdbox store" in capsys.readouterr().out
    assert (tmp_path / "two/storage").is_dir()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[mount]\nworker = 3\n", "[mount]: worker: no option of this command; did you mean workers?"),
        ("[muont]\nworkers = 3\n", "muont: no command's table; did you mean mount?"),
        ("workers = 3\n", "workers: no command's table"),
        ("[mount]\nworkers = 0\n", "[mount]: workers = 0: '0' is no number above 0"),
        ("[mount]\nio = 'tape'\n", "[mount]: io = 'tape': the value must be one of "),
        ("[mount]\nksm = 'perhaps'\n", "[mount]: ksm = 'perhaps': "),
        ("[mount]\nworkers = [1]\n", "[mount]: workers = [1]: the value must be one text or number"),
        ("[mount\n", "no TOML: "),
    ],
)
def test_what_is_wrong_is_one_line_with_the_file_and_status_2(
    system: Write, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = system(text)
    for command in (["mount", "/nonexistent", "/nonexistent"], ["config"]):
        assert main(command) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"dboxfs: {path}")
        assert told in line


def test_a_wrong_variable_is_named(
    system: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBOXFS_MOUNT_WORKRES", "3")
    assert main(["mount", "/nonexistent", "/nonexistent"]) == 2
    assert "DBOXFS_MOUNT_WORKRES: workres: no option of this command; did you mean workers?" in (
        capsys.readouterr().err
    )


def test_one_file_can_be_named_and_has_to_be_there(
    system: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system("[mount]\nworkers = 3\n")
    chosen = tmp_path / "chosen.toml"
    monkeypatch.setenv("DBOXFS_CONFIG", str(chosen))
    assert main(["config"]) == 2
    assert capsys.readouterr().err == f"dboxfs: DBOXFS_CONFIG: {chosen}: no such file\n"
    chosen.write_text("[mount]\nworkers = 5\n")
    assert shown(capsys)["workers"] == f"5  # {chosen} [mount]"
    monkeypatch.setenv("DBOXFS_CONFIG", "none")
    assert shown(capsys)["workers"] == "10  # default"


def test_every_option_of_every_command_can_be_configured(
    system: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["config", "all"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"[{command}]\n" in out
        for key in configuration.options_of(command_parsers()[command]):
            assert f"\n{key} = " in out
    assert main(["config", "mont"]) == 2
    assert "did you mean mount?" in capsys.readouterr().err
