"""Converting a store into another format; ``PROTOCOL.md`` beside this file says how, step by step."""

from dboxfs.store.converting.convert import Converted, Converter, Progress
from dboxfs.store.converting.errors import HiddenMail, OtherConversion, SourceChanged, VerifyFailed

__all__ = [
    "Converted",
    "Converter",
    "HiddenMail",
    "OtherConversion",
    "Progress",
    "SourceChanged",
    "VerifyFailed",
]
