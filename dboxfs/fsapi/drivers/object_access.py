"""How an object store is reached: what a user says, and the settings that other programs for S3 have.

No credentials are kept or told here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from msgspec import Struct


class Access(Struct, frozen=True):
    """How a server is asked.

    :ivar ca_file: certificates (PEM) that are trusted besides the system's; None: those that AWS_CA_BUNDLE
        names, or ``ca_bundle`` of the profile.
    :ivar timeout: seconds for one try of one request with its answer; a put of more than 4 MiB has eight
        times as long.
    :ivar retries: how often a request is tried again.
    """

    ca_file: str | None = None
    timeout: float = 30.0
    retries: int = 5


def certificates(path: str) -> bytes:
    """The certificates (PEM) in a file.

    :raises OSError: it can't be read, or (EINVAL) has no certificate.
    """
    with open(path, "rb") as file:
        data = file.read()
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise OSError(errno.EINVAL, "it has no certificate (PEM)", path)
    return data


def shared_config(environment: Mapping[str, str]) -> dict[str, str]:
    """Settings for S3 of the profile in ``~/.aws/credentials`` and ``~/.aws/config``; variables win.

    The names are those of the files (AWS CLI): ``aws_access_key_id``, ``aws_secret_access_key``,
    ``aws_session_token``, ``region``, ``endpoint_url``, ``ca_bundle``.
    """
    profile = environment.get("AWS_PROFILE", "default")
    home = os.path.expanduser("~/.aws")
    found: dict[str, str] = {}
    places = (
        (
            environment.get("AWS_CONFIG_FILE", f"{home}/config"),
            profile if profile == "default" else f"profile {profile}",
        ),
        (environment.get("AWS_SHARED_CREDENTIALS_FILE", f"{home}/credentials"), profile),
    )
    import configparser  # only here: a mount of a directory needs none

    for path, section in places:
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(path, "utf-8")
        except (configparser.Error, UnicodeDecodeError):
            raise OSError(errno.EINVAL, "it can't be read as settings", path) from None
        if parser.has_section(section):
            found.update(parser.items(section))
    names = {
        "aws_access_key_id": ("access_key_id", "AWS_ACCESS_KEY_ID"),
        "aws_secret_access_key": ("secret_access_key", "AWS_ACCESS_KEY_ID"),
        "aws_session_token": ("session_token", "AWS_ACCESS_KEY_ID"),
        "region": ("region", "AWS_REGION"),
        "endpoint_url": ("endpoint", "AWS_ENDPOINT_URL"),
        "ca_bundle": ("ca_bundle", "AWS_CA_BUNDLE"),
    }
    return {
        option: found[name]
        for name, (option, variable) in names.items()
        if name in found and variable not in environment
    }
