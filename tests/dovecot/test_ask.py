"""What ``doveconf -n`` prints is understood, in the forms that both versions print."""

from __future__ import annotations

from dboxfs.dovecot.ask import parse_configuration

TEXT = """\
# 2.4.1-4 (7d8c0e5759): /etc/dovecot/dovecot.conf
dovecot_config_version = 2.4.0
mail_path = "~/my \\"mail\\""
mail_inbox_path =
mail_index_path = /i/%{user | domain}/%{user | username}
namespace inbox {
  inbox = yes
  mailbox Drafts {
    special_use = "\\\\Drafts"
  }
  separator = /
}
plugin {
  zlib_save = gz
}
userdb passwd-file {
  passwd_file_path = /etc/users
}
mail_gid = vmail
"""


def test_settings_and_blocks_are_read_with_their_levels() -> None:
    found = parse_configuration(TEXT)
    assert found.settings == {
        "dovecot_config_version": "2.4.0",
        "mail_path": '~/my "mail"',
        "mail_inbox_path": "",
        "mail_index_path": "/i/%{user | domain}/%{user | username}",
        "mail_gid": "vmail",
    }
    ((title, namespace),) = found.named("namespace")
    assert (title, namespace.settings) == ("inbox", {"inbox": "yes", "separator": "/"})
    ((_, drafts),) = namespace.named("mailbox")
    assert drafts.settings == {"special_use": "\\Drafts"}
    assert [block.settings for _, block in found.named("plugin")] == [{"zlib_save": "gz"}]
    assert [title for title, _ in found.named("userdb")] == ["passwd-file"]


def test_what_has_no_known_form_is_left_out() -> None:
    found = parse_configuration("doveconf: something\n}\n}\nssl = no\nlocal 10.0.0.0/8 {\nssl = yes\n}\n")
    assert found.settings == {"ssl": "no"}
