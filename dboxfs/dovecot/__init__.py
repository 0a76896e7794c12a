"""What the Dovecot that is installed says: its version, its configuration, its users.

Everything is asked through its own programs (``doveconf``, ``doveadm user``), which touch no mailstore.
"""
