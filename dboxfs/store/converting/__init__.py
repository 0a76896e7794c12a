"""Converting a store into another format; ``PROTOCOL.md`` beside this file says how, step by step."""

from dboxfs.store.converting.convert import Converter
from dboxfs.store.converting.errors import HiddenMail, OtherConversion, SourceChanged, VerifyFailed
from dboxfs.store.converting.results import Converted, Progress

__all__ = [
    "Converted",
    "Converter",
    "HiddenMail",
    "OtherConversion",
    "Progress",
    "SourceChanged",
    "VerifyFailed",
]
