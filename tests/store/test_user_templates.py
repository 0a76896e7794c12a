"""Users found by where their stores lie (``mdbox:/srv/vmail/%d/%n/mdbox``)."""

from __future__ import annotations

from pathlib import Path

import pytest

from dboxfs.errors import NoSuchStore
from dboxfs.store import Kind
from dboxfs.store.user_templates import TemplateUsers


def found(tmp_path: Path, template: str, *directories: str) -> list[str]:
    for directory in directories:
        (tmp_path / directory).mkdir(parents=True, exist_ok=True)
    return TemplateUsers(template.replace("ROOT", str(tmp_path))).names()


def test_user_and_domain_are_put_together(tmp_path: Path) -> None:
    made = ("a.example/ann/mdbox", "a.example/bob/mdbox", "b.example/ann/mdbox", "b.example/none")
    assert found(tmp_path, "mdbox:ROOT/%d/%n/mdbox", *made) == [
        "ann@a.example",
        "ann@b.example",
        "bob@a.example",
    ]


@pytest.mark.parametrize(
    "template",
    [
        "sdbox:ROOT/%u",
        "sdbox:ROOT/%{user}",
        "sdbox:ROOT/%n@%d:INDEX=/var/index/%u",
        "ROOT/%u",
    ],
)
def test_what_stands_for_the_whole_name_is_the_name(tmp_path: Path, template: str) -> None:
    assert found(tmp_path, template, "ann@a.example", "b@b") == ["ann@a.example", "b@b"]


def test_hashed_directories_count_where_they_fit_the_user(tmp_path: Path) -> None:
    made = ("a/ann/mail", "b/bob/mail", "x/eve/mail")
    assert found(tmp_path, "mdbox:ROOT/%1n/%n/mail", *made) == ["ann", "bob"]


def test_files_and_odd_names_are_no_users(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = ("a.example/with@sign/mail", "a.example/new\nline/mail", "a.example/ok/mail")
    assert found(tmp_path, "mdbox:ROOT/%d/%n/mail", *made) == ["new\nline@a.example", "ok@a.example"]


def test_the_kind_is_the_template_s_and_the_place_is_above_all(tmp_path: Path) -> None:
    users = TemplateUsers(f"mdbox:{tmp_path}/%d/%n/mdbox")
    assert (users.kind, users.place) == (Kind.MDBOX, str(tmp_path))
    assert TemplateUsers(f"{tmp_path}/%u").kind is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("mdbox:/srv/vmail/%d/mdbox", "names no user"),
        ("mdbox:/srv/%Lu", "names no user"),
        ("mdbox:~/mdbox%n", "absolute path"),
        ("mdbox:%h/mdbox", "absolute path"),
        ("maildir:/srv/%u", "no dbox format"),
        ("mdbox:/srv/%u:INDEKS=/x", "unknown key"),
    ],
)
def test_a_template_that_tells_no_users_is_refused(text: str, why: str) -> None:
    with pytest.raises(NoSuchStore, match=why):
        TemplateUsers(text)


def test_a_directory_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TemplateUsers(f"mdbox:{tmp_path}/away/%u").names()
