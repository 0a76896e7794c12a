"""What of a Dovecot's configuration can't be used is told with its reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dboxfs.dovecot.encryption import encryption_of
from dboxfs.dovecot.namespaces import other_namespaces
from dboxfs.dovecot.user import FoundUser, find_user
from dboxfs.errors import Unsupported

SAMPLES = Path(__file__).parent.parent.parent / "samples"

Configured = Callable[[str], FoundUser]


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """Gives the user *ann* of a Dovecot 2.3 with a configuration, whose doveconf shows no hidden setting."""
    shutil.copytree(SAMPLES / "mdbox", tmp_path / "mail")
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")

    def put(name: str, script: str) -> None:
        path = tmp_path / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def configure(text: str) -> FoundUser:
        (tmp_path / "conf").write_text(f"# 2.3.19 (x): c\nmail_location = mdbox:{tmp_path}/mail\n{text}")
        put(
            "doveconf", f"case $* in *-P*) echo 'doveconf: Error: no' >&2; exit 1;; esac; cat {tmp_path}/conf"
        )
        put("doveadm", "printf 'field\\tvalue\\nuid\\t0\\n'")
        return find_user("ann")

    return configure


def test_a_namespace_that_is_shown_already_or_has_no_owner_in_its_prefix_is_left_out(
    configured: Configured, tmp_path: Path
) -> None:
    found = configured(
        "namespace inbox {\n  inbox = yes\n  prefix = \n  separator = /\n}\n"
        f"namespace again {{\n  location = mdbox:{tmp_path}/mail\n  prefix = Again/\n  separator = /\n}}\n"
        "namespace others {\n  type = shared\n  location = mdbox:%h\n  prefix = others/\n  separator = /\n}\n"
    )
    told: list[str] = []
    assert other_namespaces(found, found.location(), told.append) == []
    assert sorted(told) == [
        f"namespace Again/: left out: {tmp_path}/mail is shown already",
        "namespace others/: left out: its prefix names no owner",
    ]


def test_a_public_key_that_dovecot_hides_is_to_be_given(configured: Configured) -> None:
    found = configured(
        "mail_plugins = mail_crypt\nplugin {\n  mail_crypt_save_version = 2\n"
        "  mail_crypt_global_public_key = # hidden, use -P to show it\n}\n"
    )
    with pytest.raises(Unsupported) as refused:
        encryption_of(found)
    assert str(refused.value) == (
        "doveconf plugin/mail_crypt_global_public_key: no; give -o encrypt=FILE or -o encrypt=none"
    )
