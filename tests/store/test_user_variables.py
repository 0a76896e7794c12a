"""Variables of Dovecot's settings: each value is what the real Dovecot (``doveadm user -e``) has."""

from __future__ import annotations

import re

import pytest

from dboxfs.errors import NoSuchStore
from dboxfs.store.user_variables import StoreUser, absolute_path, expand
from tests.live.dovecot import Dovecot

OLD = (
    "%u %n %d %h %1n %2n %1.2n %-2.1n %-2.2n %0.2n %2.0n %100n %Ld %Un %1Lu %LUn %Dd %Tn %1{user} %L{user} "
    "%{user} %{username} %{domain} %{home} %%u 100%% a%%b"
)
NEW = (
    "%{user} %{home} %{user|username} %{user|domain} %{user|username|upper} %{user|lower} "
    "%{user|substr(0,2)} %{user|substr(2)} %{user|substr(-3)} %{user|substr(-3,2)} %{user|substr(1,3)|upper} "
    "%u 100% a%%b %%{user}"
)
USER = StoreUser("Bob.B@Example.org", "/home/%u/bob", 999, 998)


def test_variables_are_what_dovecot_makes_of_them(dovecot: Dovecot) -> None:
    version = dovecot.dialect.version
    account = dovecot.account("sdbox:~/mail")
    user = StoreUser(account.name, str(account.home), dovecot.mail_uid)
    texts = (OLD if version < (2, 4) else NEW).split()
    assert len(texts) >= 15
    for text in texts:
        said = dovecot.doveadm("user", "-e", text, account.name).decode().strip()
        assert expand(text, user, version=version) == said, text


@pytest.mark.parametrize(
    ("text", "version", "value"),
    [
        ("/m/%d/%1n/%Ln", (2, 3), "/m/Example.org/B/bob.b"),
        ("%h", (2, 3), "/home/%u/bob"),
        ("%i:%g", (2, 3), "999:998"),
        ("/m/%{user | domain | lower}/%{user | username | substr(0, 1)}", (2, 4), "/m/example.org/B"),
        ("%d", (2, 4), "%d"),
    ],
)
def test_each_version_has_its_own_variables(text: str, version: tuple[int, int], value: str) -> None:
    assert expand(text, USER, version=version) == value


@pytest.mark.parametrize(
    ("text", "version", "words"),
    [
        ("/m/%s", (2, 3), "can't expand '%s'"),
        ("/m/%", (2, 3), "can't expand '%'"),
        ("/m/%{userdb:x}", (2, 3), "can't expand 'userdb:x'"),
        ("%{user | md5}", (2, 4), "can't expand 'md5'"),
        ("%{user | substr(x)}", (2, 4), "can't be understood"),
        ("%{env:HOME}", (2, 4), "can't expand 'env:HOME'"),
    ],
)
def test_a_variable_that_is_not_known_is_named(text: str, version: tuple[int, int], words: str) -> None:
    with pytest.raises(NoSuchStore, match=re.escape(words)):
        expand(text, USER, version=version)


def test_a_variable_without_a_user_says_what_to_give() -> None:
    with pytest.raises(NoSuchStore, match="is about a user; give the final path, or --user NAME"):
        expand("/m/%n", None, version=(2, 3))
    with pytest.raises(NoSuchStore, match="the home of ann is not known"):
        expand("%h", StoreUser("ann"), version=(2, 3))


def test_a_tilde_is_the_home_of_the_user_or_of_whom_it_names() -> None:
    assert absolute_path("~/mail/../m", USER) == "/home/%u/bob/m"
    assert absolute_path("~root/mail") == "/root/mail"
    with pytest.raises(NoSuchStore, match="this system has no user 'nobody-here'"):
        absolute_path("~nobody-here/mail")
