"""``dboxfs mount``: what ``-o`` and the other options mean, and what is wrong usage."""

from __future__ import annotations

import re

import pytest

from dboxfs.cli.main import main
from dboxfs.cli.mount_options import parse_options
from dboxfs.cli.status import UsageError
from dboxfs.vfs.options import ViewOptions


def test_without_options_the_view_is_the_stores_own() -> None:
    parsed = parse_options([])
    assert parsed.mount.view == ViewOptions()
    assert not parsed.mount.allow_other
    assert parsed.mount.fuse == ()
    assert parsed.attachments is None


def test_every_option_is_understood() -> None:
    modes = "umask=0277,fmode=0440,dmode=550,separator=."
    parsed = parse_options(
        ["ro,allow_other,uid=1000,gid=0", modes, "separator=.,attachments=/a/../b,replace,namespaces"]
    )
    expected = ViewOptions(uid=1000, gid=0, umask=0o277, file_mode=0o440, directory_mode=0o550, separator=".")
    assert parsed.mount.view == expected
    assert (parsed.replace, parsed.namespaces) == (True, True)
    assert parsed.mount.allow_other
    assert parsed.attachments == "/b"


def test_metrics_are_told_to_this_machine_alone_unless_it_is_said() -> None:
    told = {
        "9477": "127.0.0.1:9477",
        "127.1.2.3:1": "127.1.2.3:1",
        "[::1]:9477": "[::1]:9477",
        "unix:/run/x.sock": "unix:/run/x.sock",
    }
    for text, address in told.items():
        assert str(parse_options([f"metrics={text}"]).mount.metrics) == address
    assert str(parse_options(["metrics=0.0.0.0:9477,metrics_public"]).mount.metrics) == "0.0.0.0:9477"
    assert parse_options([]).mount.metrics is None


def test_what_fstab_adds_is_taken_or_ignored() -> None:
    parsed = parse_options(
        ["defaults,noauto,nofail,_netdev,x-systemd.automount,comment=mine,relatime,,nosuid,nodev"]
    )
    assert parsed.mount.fuse == ("nosuid", "nodev")


def test_the_last_of_two_values_counts() -> None:
    assert parse_options(["uid=1,uid=2"]).mount.view.uid == 2


@pytest.mark.parametrize(
    "option",
    ["uid=", "uid=-1", "uid=root", "uid=4294967295", "gid=٣", "umask=8", "umask=", "separator=ab",
     "separator=", "separator=\n", "attachments=", "allow_other=1", "allow_othr", "nosuid=1",
     "fsname=x", "metrics=", "metrics=0", "metrics=65536", "metrics=localhost:80", "metrics=unix:",
     "metrics=0.0.0.0:9477", "metrics=[::]:9477", "metrics=192.0.2.1:1"],
)  # fmt: skip
def test_a_wrong_option_is_refused_by_name(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match=r"^-o "):
        parse_options([option])
    assert main(["mount", "-o", option, "/nonexistent", "/nonexistent"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"dboxfs: -o {option.rstrip()}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["--workers", "0"],
        ["--workers", "x"],
        ["--readahead", "1T"],
        ["--cache-size", ""],
        ["--log-level", "loud"],
    ],
)
def test_a_wrong_value_is_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["mount", *arguments, "/nonexistent", "/nonexistent"])
    assert caught.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_an_empty_store_is_not_the_working_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["mount", "", "/nonexistent"]) == 3
    assert (
        capsys.readouterr().err
        == "dboxfs: STORE is empty; give the root of a dbox store or a mail location\n"
    )


def status_of(arguments: list[str]) -> object:
    """The exit status, also where argparse ends the program."""
    try:
        return main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize(
    ("arguments", "status", "meant"),
    [
        (["mnt", "/store"], 2, "did you mean mount?"),
        (["mount", "-o", "allow_othr", "/nonexistent", "/nonexistent"], 2, "did you mean allow_other?"),
        (["mount", "-o", "rw,alon", "/nonexistent", "/nonexistent"], 2, "did you mean alone?"),
        (["info", "mdbox:/nonexistent:INDX=/index"], 3, "did you mean INDEX?"),
    ],
)
def test_a_word_that_nothing_has_is_told_with_the_one_that_may_be_meant(
    arguments: list[str], status: int, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(arguments) == status
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "takes"),
    [
        ("uid=root", "takes a number"),
        ("loop=slow", "takes fast|plain"),
        ("entries", "takes auto|epoch|companion|timeout"),
        ("rw,alone=yes", "takes no value"),
        ("fsync=never", "needs -o rw"),
    ],
)
def test_an_option_with_a_wrong_value_is_told_with_what_it_takes(option: str, takes: str) -> None:
    with pytest.raises(UsageError, match=re.escape(takes)):
        parse_options([option])
