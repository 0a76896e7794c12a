"""Formats of mail that others keep, as Dovecot reads and writes them: Maildir and mbox.

Pure: bytes in, values out.  Import reads with them what export has written.
"""
