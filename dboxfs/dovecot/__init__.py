"""Facts from the installed Dovecot: its version, its configuration, its users.

This package asks only Dovecot's own programs (``doveconf``, ``doveadm user``), which touch no mailstore.
"""
