"""Dovecot's index files: sans-I/O codecs and the state that they build.

``log``       ``dovecot.index.log``: header, records, modseq counting, encoding
``payload``   the bodies of log records, to write them
``base``      ``dovecot.index``: the snapshot, read and written
``state``     :class:`~dboxfs.index.state.IndexState`: snapshot + log replay, in columns
``table``     the rows, columns and log position that a state owns; made of ``columns`` and ``extensions``
``replay``    how log records change a table
``requests``  the messages with pending requests to expunge them, for readers and writers
``reader``    the choice of the files that make the current state (a pure decision)
``mailbox``   typed views of a mailbox index; ``mapindex`` of the mdbox map
``cachefile`` ``dovecot.index.cache``, read only
``describe``  all of them as text

Bytes in, values out: no module here opens a file or waits.  Damage raises
:class:`~dboxfs.errors.FormatError`.
"""
