"""Converts a store into another format; ``PROTOCOL.md`` beside this file has the steps."""

from dboxfs.tools.convert.convert import Converter
from dboxfs.tools.convert.errors import OtherConversion, SourceChanged, VerifyFailed
from dboxfs.tools.convert.results import Converted, ConvertProgress

__all__ = [
    "ConvertProgress",
    "Converted",
    "Converter",
    "OtherConversion",
    "SourceChanged",
    "VerifyFailed",
]
