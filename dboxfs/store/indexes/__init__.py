"""Dovecot's index files on disk: followed, locked, made, appended to, written anew."""
