"""Keys of ``mail_crypt`` for the private Dovecot."""

from __future__ import annotations

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.live.dovecot import Dovecot


@dataclass(frozen=True, slots=True)
class Keys:
    """A pair of global keys: two PEM files, and the settings of :meth:`Dovecot.account` that use them."""

    private: Path
    public: Path
    settings: dict[str, str]


def global_keys(dovecot: Dovecot, curve: str = "P-256") -> Keys:
    """A new pair, in files that the mail user can read.

    :param curve: of the key; ``RSA``: an RSA key of 2,048 bits.
    """
    directory = Path(tempfile.mkdtemp(prefix="keys.", dir=dovecot.root))
    directory.chmod(0o755)
    private, public = directory / "private.pem", directory / "public.pem"
    kind, option = ("RSA", "rsa_keygen_bits:2048") if curve == "RSA" else ("EC", f"ec_paramgen_curve:{curve}")
    _openssl("genpkey", "-algorithm", kind, "-pkeyopt", option, "-out", private)
    _openssl("pkey", "-in", private, "-pubout", "-out", public)
    private.chmod(0o644)
    return Keys(private, public, dovecot.dialect.crypt_keys(private, public))


def _openssl(*args: str | Path) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True)
