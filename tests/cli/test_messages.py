"""Messages that a mistake on the command line brings: one line that says what, where, and what to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dboxfs.cli.main import main

SAMPLES = Path(__file__).parent.parent.parent / "samples"

MISTAKES = [
    ("config nonsense", 2, "nonsense: no such command"),
    ("ls {mdbox} --since yesterday", 2, "'yesterday': give a date (2026-06-30) or days (7d)"),
    (
        "ls --at then {mdbox}",
        2,
        "'then' is neither a day (2026-11-01) nor a time (2026-11-01T12:00:00Z)",
    ),
    ("ls --request-timeout x {mdbox}", 2, "'x' is no number of seconds from 0.1 to 3600"),
    ("ls --request-retries 101 {mdbox}", 2, "'101' is no number from 0 to 100"),
    ("archive --before then {mdbox} {tmp}", 2, "'then': give a date (2026-06-30) or days (7d)"),
    ("ls {mdbox} --larger 3X", 2, "'3X': give bytes, or 20k, 3M, 1G"),
    (
        "init {tmp}/new --format sdbox --owner root:nogroupofthisname",
        2,
        "'root:nogroupofthisname': no such group",
    ),
    (
        "init {tmp}/new --format sdbox --owner 123456",
        2,
        "'123456': no such user (a number needs :GROUP then)",
    ),
    ("init {tmp}/new", 2, "{tmp}/new: a directory alone doesn't say the format: give --format sdbox or "),
    (
        "export {mdbox} {tmp}/new --format mbox --xattrs",
        2,
        "only for --format eml; leave it out: mbox has flags",
    ),
    ("convert {mdbox} mdbox:{tmp}/new:INDEX=/x --format sdbox", 2, "a new store is named by its directory"),
    ("rescue {mdbox} ", 2, "it is empty: name a directory"),
    ("info --set mail_path", 2, "'mail_path': give NAME=VALUE"),
    (
        "info --set mail_paht=/x",
        2,
        "'mail_paht' is no setting that says where a store is; these do: mail_location,",
    ),
    (
        "info --set mail_location=mdbox:{mdbox} --set mail_path=/x",
        2,
        "--set mail_location=... is Dovecot 2.3's, and says everything; give it alone",
    ),
    ("undelete {mdbox}", 2, "say which messages: --guid, --mailbox, --since, or --all; --list shows them"),
    ("check --users {tmp}/%u --user ann", 2, "--users: names all stores; leave out --user and --set"),
    (
        "mount --users {tmp}/%u --user ann {tmp}/mnt",
        2,
        "--users: names all stores; leave out --user and --set",
    ),
    ("mount --users mail/%u {tmp}/mnt", 3, "give an absolute path; ~ and %h say nothing of where users are"),
    ("mount --users {tmp}/%d/mail {tmp}/mnt", 3, "names no user; give %u, or %n and %d, in the path"),
    (
        "mount --users {tmp}/%u -o rw,view=maildir {tmp}/mnt",
        2,
        "with --users it can only be read; leave out rw",
    ),
    ("mount -o stores=3 {mdbox} {tmp}/mnt", 2, "-o stores: is about many users; it needs --users SOURCE"),
    ("mount -o uid=x {mdbox} {tmp}/mnt", 2, "-o uid=x: takes a number; dboxfs mount --help says more"),
    (
        "mount -o rw,open=none {mdbox} {tmp}/mnt",
        2,
        "-o open=none: only for read-only mounts; leave it out, or rw",
    ),
    (
        "mount -o restore,view=maildir {mdbox} {tmp}/mnt",
        2,
        "-o restore: puts back what the default view shows; leave view out",
    ),
    (
        "mount -o names=mutf7 {mdbox} {tmp}/mnt",
        2,
        "-o names: says how Maildirs are shown; it needs -o view=maildir",
    ),
    ("mount {mdbox} {tmp}/file", 4, "{tmp}/file: not a directory; give an empty directory to mount on"),
    ("mount --workers 0 {mdbox} {tmp}/mnt", 2, "'0' is no number above 0"),
    ("mount --cache-size x {mdbox} {tmp}/mnt", 2, "'x' is no number of bytes (such as 65536, 512K, 64M)"),
    ("dump {tmp}/fifo", 1, "{tmp}/fifo: a FIFO or a device"),
    ("dump {tmp}/file", 1, "{tmp}/file: empty file"),
    ("dump {mdbox}/subscriptions", 1, "no dbox, index, log, map or cache file (it begins with "),
    (
        "import --from maildir {mdbox}/subscriptions {tmp}/new",
        3,
        "a file, no directory of messages; an mbox is",
    ),
    ("import {tmp}/fifo {tmp}/new", 3, "{tmp}/fifo: neither a file nor a directory"),
    (
        "import {tmp}/maildir {mdbox} --format sdbox",
        3,
        "{mdbox}: this is an mdbox store; leave out --format",
    ),
    (
        "convert --users {tmp}/%u {tmp}/new --format sdbox",
        2,
        "{tmp}/new: with --users DST needs %u, or %n and %d, for a store of each user",
    ),
    ("mount --log-file {tmp}/mnt/log {mdbox} {tmp}/mnt", 4, "lies in the mount; give a file elsewhere"),
    (
        "mount -o fsync=never {mdbox} {tmp}/mnt",
        2,
        "-o fsync: says how to write; it needs -o rw (in fstab: writable)",
    ),
    (
        "mount --users {tmp}/%u -o rw,view=maildir {tmp}/mnt",
        2,
        "-o view=maildir: with --users it can only be read; leave out rw",
    ),
    ("stats {tmp}/mnt --plot {tmp}/new.doc", 2, "--plot {tmp}/new.doc: end the name with one of "),
    (
        "archive {mdbox} file://{tmp}/new --keep-daily 1",
        2,
        "--keep-daily, --keep-monthly: belong to dboxfs archive prune URL",
    ),
    (
        "mount -o namespaces {mdbox} {tmp}/mnt",
        2,
        "-o namespaces: only with --user, whose Dovecot tells which there are",
    ),
    (
        "mount -o metrics=0.0.0.0:9999 {mdbox} {tmp}/mnt",
        2,
        "other machines could read it; give a loopback address, or add metrics_public",
    ),
    ("import {tmp}/maildir  --format mdbox", 2, "STORE: "),
    ("info sdbox:{mdbox}", 3, "{mdbox}: this is an mdbox store ("),
    ("info --set mail_path=/x", 3, "mail_driver is not set; dboxfs needs mail_driver = sdbox or mdbox"),
    ("info mdbox:{mdbox}:INDEX=", 3, "INDEX= needs a value"),
    ("nonsense", 2, "'nonsense': no such command; dboxfs --help lists them"),
    (
        "convert {mdbox} {mdbox}/new",
        2,
        "{mdbox}/new: DST and SRC must not lie in each other ({mdbox} belongs",
    ),
    (
        "export {mdbox} {mdbox}/new --format eml",
        2,
        "{mdbox}/new: DIR and STORE must not lie in each other ({mdbox} belongs to STORE)",
    ),
    (
        "import {tmp}/maildir {tmp}/maildir/new --format mdbox",
        2,
        "{tmp}/maildir: SOURCE and STORE must not lie in each other ({tmp}/maildir/new belongs to STORE)",
    ),
    ("import {tmp}/maildir --user ann --format mdbox", 2, "--format makes a new store: name its directory"),
    ("ls {mdbox} Nowhere", 1, "Nowhere: no such mailbox in {mdbox}; dboxfs ls {mdbox} lists them"),
    (
        "mount --cache-dir {mdbox}/cache {mdbox} {tmp}/mnt",
        4,
        "--cache-dir {mdbox}/cache: lies inside of {mdbox}; give a directory of its own",
    ),
    ("mount {mdbox} {tmp}/none", 4, "{tmp}/none: no such directory; make it with: mkdir {tmp}/none"),
    (
        "mount -o nosuchthing {mdbox} {tmp}/mnt",
        2,
        "-o nosuchthing: unknown option; dboxfs mount --help lists",
    ),
    ("ls --ca-file {tmp}/file {mdbox}", 2, "--ca-file: about the server of an archive; STORE is none"),
    ("info sdbox:{mdbox}", 3, " says so); give mdbox:{mdbox}"),
]


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    tmp = tmp_path_factory.mktemp("mistakes")
    shutil.copytree(SAMPLES / "mdbox", tmp / "mdbox")
    (tmp / "file").touch()
    (tmp / "mnt").mkdir()
    for sub in ("cur", "new", "tmp"):
        (tmp / "maildir" / sub).mkdir(parents=True)
    os.mkfifo(tmp / "fifo")
    return {"tmp": str(tmp), "mdbox": str(tmp / "mdbox")}


@pytest.mark.parametrize(("line", "status", "said"), MISTAKES, ids=[line for line, _, _ in MISTAKES])
def test_a_mistake_is_told_in_one_line(
    names: dict[str, str], capsys: pytest.CaptureFixture[str], line: str, status: int, said: str
) -> None:
    try:
        got: object = main([word.format(**names) for word in line.split(" ")])
    except SystemExit as exc:
        got = exc.code
    out, err = capsys.readouterr()
    *usage, told = err.splitlines()
    assert said.format(**names) in told
    assert told.startswith("dboxfs")
    assert not usage or usage[0].startswith("usage: ")
    assert (got, out) == (status, "")
    assert not os.path.exists(f"{names['tmp']}/new")


def test_a_configuration_file_that_is_named_and_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DBOXFS_CONFIG", str(tmp_path / "none.toml"))
    assert main(["info", str(SAMPLES / "mdbox")]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith(f"DBOXFS_CONFIG: {tmp_path}/none.toml: no such file")
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[mount\n", "no TOML: "),
        ("[muont]\n", "muont: no command's table; did you mean mount?"),
        ("[mount]\ncach-size = 1\n", "cach-size: no option of this command; did you mean cache-size?"),
        ("[mount]\nksm = 3\n", "ksm = 3: "),
        ("[mount]\nworkers = 0\n", "workers = 0: '0' is no number above 0"),
        ('[mount]\nlog-level = "loud"\n', "the value must be one of debug, info, warning, error"),
    ],
)
def test_a_mistake_in_a_configuration_file_is_told_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = tmp_path / "dboxfs.toml"
    file.write_text(text)
    monkeypatch.setenv("DBOXFS_CONFIG", str(file))
    for command in (["mount", "/nowhere", str(tmp_path)], ["config"]):
        assert main(command) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith(f"dboxfs: {file}")
        assert said in told
