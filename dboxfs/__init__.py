"""dboxfs: a Dovecot dbox mailstore (sdbox, mdbox) as a filesystem, and as a library."""

__version__ = "0.1.0"
