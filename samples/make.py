"""Make ``samples/sdbox`` and ``samples/mdbox``: two small stores, written by the real Dovecot.

Run it by ``scripts/make-sample``.  The messages are from ``tests/data/mail``; both stores hold the same.
Each message's saved date is asked for, so that Dovecot keeps it in its cache file: in single-dbox it
would otherwise be the file's ctime, which no checkout preserves.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.live import corpus
from tests.live.dovecot import Account, Append, Dovecot
from tests.live.equal import Expected

HERE = Path(__file__).parent

# Mailbox, then message, flags and keywords, received.
CONTENTS: dict[str, list[tuple[str, str, str]]] = {
    "INBOX": [
        ("plain_emails-basic_email", r"\Seen", "03-Nov-2025 08:15:00 +0100"),
        ("rfc2822-example01", r"\Seen \Answered", "10-Nov-2025 09:00:12 +0000"),
        ("rfc2822-example04", "", "11-Nov-2025 17:45:59 -0500"),
        ("attachment_emails-attachment_only_email", r"\Seen \Flagged $Invoice", "24-Dec-2025 18:00:00 +0100"),
        ("rfc6532-utf8_headers", "", "02-Jan-2026 10:30:00 +0900"),
        ("mime_emails-raw_email7", r"\Seen $Forwarded", "14-Jan-2026 11:11:11 +0000"),
        ("multipart_report_emails-report_422", "", "15-Jan-2026 03:00:00 +0000"),
    ],
    "Lists": [],
    "Lists/ruby-mail": [
        ("plain_emails-raw_email_reply", r"\Seen", "20-Jan-2026 12:00:00 +0000"),
        ("plain_emails-raw_email_simple", "", "21-Jan-2026 12:00:00 +0000"),
        ("plain_emails-raw_email5", "", "22-Jan-2026 12:00:00 +0000"),
        ("mime_emails-two_from_in_message", r"\Seen", "23-Jan-2026 12:00:00 +0000"),
    ],
    "Entwürfe": [
        ("rfc2822-example05", r"\Draft \Seen", "25-Jan-2026 07:00:00 +0100"),
        ("rfc2822-example06", r"\Draft \Seen", "26-Jan-2026 07:00:00 +0100"),
    ],
    "Archive/2025": [
        ("multi_charset-japanese", r"\Seen", "01-Apr-2025 00:00:00 +0900"),
        ("multi_charset-ks_c_5601-1987", r"\Seen", "02-May-2025 00:00:00 +0900"),
        ("mime_emails-raw_email_with_nested_attachment", r"\Seen $Invoice", "03-Jun-2025 14:00:00 +0000"),
        ("rfc2822-example12", r"\Seen", "04-Jul-2025 15:00:00 +0000"),
    ],
    "Trash": [
        ("plain_emails-raw_email_quoted_with_0d0a", r"\Deleted \Seen", "05-Feb-2026 16:00:00 +0000"),
    ],
}


def fill(account: Account) -> None:
    """Make the mailboxes with their messages, and have Dovecot note what it can about each."""
    real = corpus.real()
    for mailbox, messages in CONTENTS.items():
        if mailbox != "INBOX":
            account.doveadm("mailbox create", "-s", mailbox)
        account.append([Append(real[name], flags, date) for name, flags, date in messages], mailbox)
    Expected.of(account)


def main() -> None:
    with Dovecot() as dovecot:
        for driver in ("sdbox", "mdbox"):
            account = dovecot.account(f"{driver}:{{home}}/{driver}")
            fill(account)
            target = HERE / driver
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(account.root, target, ignore=shutil.ignore_patterns("*.lock"))
            for path in [target, *target.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)


if __name__ == "__main__":
    main()
