"""What the daemon keeps of files in its own memory, and what it asks for before it is needed.

``cache`` holds pages by a centre-weighted use count, ``pages`` maps one file onto it, ``readahead``
recognises sequential reads, ``ksm`` has the kernel merge equal pages.
"""
