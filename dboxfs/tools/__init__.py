"""Programs over a whole store: ``check`` compares, ``convert`` copies into another format, ``rescue`` saves
what is left, ``dump`` shows a file.

Each works without a mount and without FUSE, on what ``store`` and the codecs give.
"""
