"""Other formats of mail, as Dovecot reads and writes them: Maildir and mbox; and the attributes of a mount.

Pure: bytes in, values out.  Export writes with these modules, import reads with them.
"""
