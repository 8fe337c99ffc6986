"""The environment in which AWS's SDK gets its credentials by the device's certificate, and in no other."""

import os
import shlex
import sys
from pathlib import Path

from components.trainer.plain_device import Connection

SCRIPT = Path(__file__).resolve().with_name("iot_credentials.py")
# Where AWS is may be said by the environment; who the device is may not: static keys, profiles and roles come
# before a process in the chain in which the SDK looks for credentials.
OF_AWS = "AWS_"
KEPT = ("AWS_ENDPOINT_URL", "AWS_CA_BUNDLE")


def use_certificate(connection: Connection, folder: Path) -> None:
    """Have this process, and those that it starts, get credentials by the certificate.

    ``folder`` gets the SDK's configuration file and the cache of the credentials. A worker that is started
    later finds the same by its environment; so the session's code need not know where credentials come from.
    """
    config = folder / "aws_config"
    unfinished = config.with_suffix(".unfinished")
    unfinished.write_text(
        f"[default]\nregion = {connection.region}\ncredential_process = {_command(connection, folder)}\n",
        encoding="utf-8",
    )
    unfinished.replace(config)
    for name in [each for each in os.environ if each.startswith(OF_AWS) and not each.startswith(KEPT)]:
        del os.environ[name]
    os.environ.update(
        {
            "AWS_CONFIG_FILE": str(config),
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REGION": connection.region,
            "AWS_DEFAULT_REGION": connection.region,
            "AWS_IOT_THING_NAME": connection.thing,  # as the nucleus tells it
        }
    )


def _command(connection: Connection, folder: Path) -> str:
    words = [sys.executable, str(SCRIPT)]
    words += ["--url", credentials_url(connection), "--thing", connection.thing]
    words += ["--certificate", connection.certificate, "--private-key", connection.private_key]
    words += ["--root-ca", connection.root_ca] if connection.root_ca else []
    words += ["--cache", str(folder / "credentials.json")]
    return shlex.join(words)


def credentials_url(connection: Connection) -> str:
    """Return where the role alias's credentials are; the path is the provider's own."""
    return f"https://{connection.credentials_endpoint}/role-aliases/{connection.role_alias}/credentials"
