"""Programs over a whole store: ``check`` compares its parts, ``convert`` copies it into another dbox format,
``rescue`` saves the readable rest of a damaged one, ``exporting`` and ``importing`` write and read other
formats, ``finding`` searches, ``dump`` shows a file.

Each works without a mount and without FUSE, on top of ``store`` and the codecs.
"""
