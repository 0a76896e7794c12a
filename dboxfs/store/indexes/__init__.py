"""Dovecot's index files on disk: read, locked, made, appended to, rewritten."""
