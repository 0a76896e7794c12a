"""The daemon's own memory for the bytes of files, and readahead.

``cache`` holds pages by a centre-weighted use count, ``pages`` maps one file onto it, ``readahead``
recognises sequential reads, ``ksm`` has the kernel merge equal pages.
"""
