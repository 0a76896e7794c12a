"""A CA and a certificate of localhost, for tests."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_BORN, _DIES = datetime.datetime(2020, 1, 1), datetime.datetime(2120, 1, 1)


def make_certificates(directory: Path) -> tuple[str, str]:
    """The file of the CA, and the file with certificate and key of a server that it has signed."""
    ca, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a CA of tests")])
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])

    def signed(name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(issuer, name, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(_BORN).not_valid_after(_DIES).add_extension(extension, True)
        return builder.sign(ca, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca_file, server_file = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(signed(issuer, ca, x509.BasicConstraints(ca=True, path_length=0)))
    secret = server.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    server_file.write_bytes(signed(subject, server, names) + secret)
    return str(ca_file), str(server_file)
