"""``--user NAME``: the store is where the real Dovecot has the user's mail, and each failure is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dboxfs.cli.main import main
from dboxfs.cli.status import EXIT_STORE
from dboxfs.dovecot.ask import installed
from tests.live import corpus
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.mounts import Mounts, dboxfs, is_mounted

Run = Callable[..., tuple[int, list[str], list[str]]]
both = pytest.mark.parametrize("driver", ["sdbox", "mdbox"])


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``dboxfs`` in this process: exit status, lines of stdout, lines of stderr."""

    def call(*args: str | Path) -> tuple[int, list[str], list[str]]:
        status = main([str(arg) for arg in args])
        out = capsys.readouterr()
        return status, out.out.splitlines(), out.err.splitlines()

    return call


def asked(account: Account) -> list[str]:
    return ["--user", account.name, "--config", str(account.dovecot.config)]


def values(lines: list[str]) -> dict[str, str]:
    """The ``label: value`` lines of ``dboxfs info``."""
    return {label: value.strip() for label, colon, value in (line.partition(":") for line in lines) if colon}


@both
def test_the_paths_of_a_user_are_those_that_dovecot_uses(dovecot: Dovecot, run: Run, driver: str) -> None:
    parts = ("index", "control", "alt", "inbox") if driver == "sdbox" else ("index", "control", "alt")
    keys = "".join(f":{part.upper()}={{home}}/the {part}".replace(" ", "-") for part in parts)
    account = dovecot.account(f"{driver}:~/mail{keys}", mail_attachment_dir="{home}/att", zlib_save="gz")
    account.append(corpus.with_flags(dict(list(corpus.real().items())[:3])))
    account.doveadm("mailbox create", "Work/Sub")
    account.append([Append(b"Subject: deep\n\n")], "Work/Sub")
    status, lines, errors = run("info", *asked(account))
    assert (status, errors) == (0, [])
    found = values(lines)
    home = account.home
    assert found["root"] == f"{home}/mail"
    assert [found[part] for part in parts] == [f"{home}/the-{part}" for part in parts]
    assert (found["attachments"], found["compression"], found["separator"]) == (f"{home}/att", "gz", "/")
    assert found["user"].startswith(f"{account.name} (uid {dovecot.mail_uid}")
    assert (found["home"], found["messages"]) == (str(home), "4")
    assert run("check", *asked(account))[:1] == (0,)
    _, lines, _ = run("ls", *asked(account), "INBOX")
    sizes = [int(line.split()[1]) for line in lines]
    assert sizes == [message.physical_size for message in account.fetch()]


def test_the_escape_character_is_found(dovecot: Dovecot, run: Run) -> None:
    account = dovecot.account("sdbox:{home}/mail", **dovecot.dialect.escapes("+"))
    account.doveadm("mailbox create", "a+b")
    assert run("ls", *asked(account))[1] == ["        0  a+b"]
    assert (account.root / "mailboxes" / "a+2bb" / "dbox-Mails").is_dir()


def test_every_command_takes_a_user(dovecot: Dovecot, mounts: Mounts, run: Run) -> None:
    account = dovecot.account("sdbox:~/mail", mail_attachment_dir="{home}/att")
    account.append(corpus.with_flags(corpus.attachments()))
    texts = [message.text for message in account.fetch()]
    assert list((account.home / "att").rglob("*-*"))
    mnt = mounts.mountpoint()
    assert dboxfs("mount", *asked(account), mnt).returncode == 0
    assert is_mounted(mnt)
    shown = [(mnt / "INBOX" / f"{n}.eml").read_bytes() for n in range(1, len(texts) + 1)]
    assert shown == texts, "attachments are put back without -o attachments"
    for command in ("convert", "rescue"):
        new = account.home / command
        status, _, errors = run(command, *asked(account), new, "--format", "mdbox")
        assert (status, errors) == (0, [])
        assert run("check", new)[0] == 0


def test_a_bare_name_is_a_user_where_no_such_path_exists(
    dovecot: Dovecot, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = dovecot.account("mdbox:{home}/mail")
    account.save(b"Subject: x\n\n")
    monkeypatch.chdir(tmp_path)
    status, lines, errors = run("ls", "-c", dovecot.config, account.name)
    assert (status, lines, errors) == (0, ["        1  INBOX"], [])
    (tmp_path / account.name).mkdir()
    status, _, errors = run("ls", "-c", dovecot.config, account.name)
    assert (status, len(errors)) == (EXIT_STORE, 1)
    assert f"{tmp_path}/{account.name}: no dbox store" in errors[0]
    status, _, errors = run("ls", "-c", dovecot.config, "nobody-here")
    assert (status, errors) == (
        EXIT_STORE,
        ["dboxfs: nobody-here: neither a directory nor a user of Dovecot"],
    )


def test_a_setting_takes_the_place_of_dovecots(dovecot: Dovecot, run: Run) -> None:
    account = dovecot.account("sdbox:~/mail")
    account.save(b"Subject: x\n\n")
    given = ["--set", "mail_driver=sdbox", "--set", "mail_path=%{home}/mail"]
    for settings in (
        given,
        ["--set", "mail_location=sdbox:%h/mail"],
        ["--set", "mail_location=sdbox:~/mail"],
    ):
        assert run("ls", *asked(account), *settings)[:2] == (0, ["        1  INBOX"])
    if dovecot.dialect.version >= (2, 4):
        status, _, errors = run("ls", *asked(account), "--set", "mail_driver=mdbox")
        assert (status, "this is an sdbox store" in errors[0]) == (EXIT_STORE, True)


def test_the_block_of_the_namespace_wins_over_the_users_own_field(dovecot: Dovecot, run: Run) -> None:
    """As in the real Dovecot, whose own answer says where the mail went."""
    account = dovecot.account("sdbox:~/mail")
    key = "location=sdbox:~/other" if dovecot.dialect.version < (2, 4) else "mail_path=~/other"
    line = (dovecot.root / "users" / account.name).read_text().rstrip()
    (dovecot.root / "users" / account.name).write_text(f"{line} userdb_namespace/inbox/{key}\n")
    account.save(b"Subject: x\n\n")
    path = account.doveadm("mailbox path", "INBOX").decode().strip()
    assert path == f"{account.home}/other/mailboxes/INBOX/dbox-Mails"
    status, lines, _ = run("info", *asked(account))
    assert (status, values(lines)["root"]) == (0, f"{account.home}/other")


@pytest.fixture(scope="module")
def static() -> Iterator[Dovecot]:
    """A Dovecot of its own with a static userdb, which the tests may stop."""
    with Dovecot(static="mdbox:~/m:INDEX=~/i") as daemon:
        yield daemon


def test_users_of_a_static_userdb_are_found_while_dovecot_runs_and_when_it_does_not(
    static: Dovecot, run: Run
) -> None:
    account = static.account("")
    account.save(b"Subject: x\n\n")
    status, lines, errors = run("info", *asked(account))
    assert (status, errors) == (0, [])
    found = values(lines)
    assert (found["root"], found["index"]) == (f"{account.home}/m", f"{account.home}/i")
    static.stop()
    status, again, errors = run("info", *asked(account))
    assert (status, values(again)["root"]) == (0, found["root"])
    (line,) = errors
    assert "from Dovecot's configuration alone, its userdb was not asked: " in line
    assert "auth-userdb" in line


@pytest.mark.parametrize(
    ("user", "words"),
    [("nobody-here", "nobody-here: Dovecot has no such user"), ("-x", "-x: Dovecot has no such user")],
)
def test_a_user_that_does_not_exist_is_one_line(dovecot: Dovecot, run: Run, user: str, words: str) -> None:
    status, lines, errors = run("info", f"--user={user}", "-c", dovecot.config)
    assert (status, lines, errors) == (EXIT_STORE, [], [f"dboxfs: {words}"])


def test_a_user_whose_mail_is_no_dbox_or_not_there_yet_is_one_line(dovecot: Dovecot, run: Run) -> None:
    for mail, words in (("maildir:~/m", "maildir is no dbox format"), ("sdbox:~/m", "no such directory")):
        account = dovecot.account(mail)
        status, lines, errors = run("info", *asked(account))
        assert (status, lines, len(errors)) == (EXIT_STORE, [], 1)
        assert f"the store of {account.name}: " in errors[0]
        assert words in errors[0]


def test_a_configuration_that_is_missing_is_one_line(run: Run, tmp_path: Path) -> None:
    status, _, errors = run("info", "--user", "ann", "-c", tmp_path / "missing.conf")
    assert (status, len(errors)) == (EXIT_STORE, 1)
    assert errors[0].startswith("dboxfs: doveconf: ")
    assert "No such file or directory" in errors[0]


def test_without_any_dovecot_a_user_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    status, _, errors = run("info", "--user", "ann")
    assert (status, len(errors)) == (EXIT_STORE, 1)
    assert "no Dovecot is installed here" in errors[0]
    status, _, errors = run("info", "ann-without-a-store")
    assert (status, len(errors)) == (EXIT_STORE, 1)
    assert "ann-without-a-store: no such directory" in errors[0]


@pytest.mark.dovecot
def test_the_version_is_that_of_the_installed_dovecot(dovecot_daemon: Dovecot) -> None:
    assert installed().version == dovecot_daemon.dialect.version


@pytest.fixture(scope="module")
def stopped() -> Iterator[Account]:
    """A user whom only the running Dovecot knows (passwd-file), and whose Dovecot does not run any more."""
    with Dovecot() as daemon:
        account = daemon.account("mdbox:~/m")
        account.save(b"Subject: x\n\n")
        daemon.stop()
        yield account


def test_a_user_whom_only_a_running_dovecot_knows_is_one_line_when_it_does_not_run(
    stopped: Account, run: Run
) -> None:
    status, lines, errors = run("info", *asked(stopped))
    assert (status, lines, len(errors)) == (EXIT_STORE, [], 1)
    assert f"dboxfs: {stopped.name}: " in errors[0]
    assert "its userdb was not asked: " in errors[0]
    assert "auth-userdb" in errors[0]
