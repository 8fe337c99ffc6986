"""Temporary AWS credentials for a device's certificate, in the form that AWS's SDKs expect of a process.

    python3 iot_credentials.py --url https://HOST/role-aliases/ALIAS/credentials --thing NAME \
        --certificate FILE --private-key FILE [--root-ca FILE] --cache FILE

An SDK runs it as ``credential_process`` (docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials)
and again before the credentials expire. They come from the AWS IoT credentials provider, requested with the
device's certificate, and are cached in a file that only its owner can read, so that not every process of the
device requests its own.

It runs as a script, without the project on its path: standard library only.
"""

import argparse
import http.client
import json
import os
import random
import ssl
import sys
import tempfile
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_TIMEOUT_SECONDS = 10
_TRIES = 3
_LARGEST_ANSWER = 64 * 1024  # bytes
# More than the 15 minutes before expiry at which boto3 refreshes: it then gets new credentials.
RENEW_BEFORE = timedelta(minutes=20)
_SPREAD = timedelta(minutes=10)  # so that devices that started together do not renew together
_REQUIRED = ("accessKeyId", "secretAccessKey", "sessionToken", "expiration")
_PASSING = {http.HTTPStatus.TOO_MANY_REQUESTS}


class RefusedError(Exception):
    """Credentials could not be obtained; the text is the reason. ``passing``: a retry may succeed."""

    def __init__(self, reason: str, *, passing: bool) -> None:
        super().__init__(reason)
        self.passing = passing


def main() -> int:
    """Print credentials, or the reason for their absence; return the exit code."""
    options = _options()
    try:
        credentials = _cached(options.cache) or _renewed(options)
    except RefusedError as error:
        sys.stderr.write(f"no credentials for {options.thing} from {options.url}: {error}\n")
        return 1
    answer = {
        "Version": 1,
        "AccessKeyId": credentials["accessKeyId"],
        "SecretAccessKey": credentials["secretAccessKey"],
        "SessionToken": credentials["sessionToken"],
        "Expiration": credentials["expiration"],
    }
    sys.stdout.write(json.dumps(answer))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Temporary AWS credentials for a device's certificate.")
    for name in ("--url", "--thing"):
        parser.add_argument(name, required=True)
    for name in ("--certificate", "--private-key", "--cache"):
        parser.add_argument(name, required=True, type=Path)
    parser.add_argument("--root-ca", type=Path, help="the authority to trust; the system's if left out")
    return parser.parse_args()


def _cached(cache: Path) -> dict[str, Any] | None:
    """Return the cached credentials, if they are complete and valid for long enough."""
    try:
        kept: dict[str, Any] = json.loads(cache.read_bytes())
        renew = _time(kept["expiration"]) - RENEW_BEFORE - random.random() * _SPREAD  # noqa: S311 - jitter
        return kept if all(kept[name] for name in _REQUIRED) and datetime.now(timezone.utc) < renew else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _renewed(options: argparse.Namespace) -> dict[str, Any]:
    context = _context(options)
    for attempt in range(1, _TRIES + 1):
        try:
            credentials = _asked(options, context)
            break
        except RefusedError as error:
            if attempt == _TRIES or not error.passing:
                raise
            time.sleep(random.uniform(0, attempt))  # noqa: S311 - jitter
    _keep(options.cache, credentials)
    return credentials


def _context(options: argparse.Namespace) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.root_ca)
        context.load_cert_chain(options.certificate, options.private_key)
    except OSError as error:  # includes ssl.SSLError
        reason = f"the certificate {options.certificate} with its key, or the root, cannot be used: {error}"
        raise RefusedError(reason, passing=False) from error
    return context


def _asked(options: argparse.Namespace, context: ssl.SSLContext) -> dict[str, Any]:
    url = urlsplit(options.url)
    connection = http.client.HTTPSConnection(url.netloc, timeout=_TIMEOUT_SECONDS, context=context)
    try:
        connection.request("GET", url.path, headers={"x-amzn-iot-thingname": options.thing})
        response = connection.getresponse()
        body = response.read(_LARGEST_ANSWER)
    except ssl.SSLError as error:
        raise RefusedError(str(error), passing=False) from error
    except (OSError, http.client.HTTPException) as error:
        raise RefusedError(str(error) or repr(error), passing=True) from error
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        text = body[:300].decode(errors="replace")
        passing = response.status in _PASSING or response.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
        hint = ""
        if response.status == http.HTTPStatus.FORBIDDEN:
            hint = (
                ": the certificate's IoT policy has to allow iot:AssumeRoleWithCertificate on the role alias"
            )
        reason = f"HTTP {response.status}{hint} ({text})"
        raise RefusedError(reason, passing=passing)
    return _read(body)


def _read(body: bytes) -> dict[str, Any]:
    try:
        credentials: dict[str, Any] = json.loads(body)["credentials"]
        _time(credentials["expiration"])
        missing = [name for name in _REQUIRED if not isinstance(credentials[name], str)]
    except (ValueError, KeyError, TypeError) as error:
        reason = f"the answer is not one of a credentials provider: {error!r}"
        raise RefusedError(reason, passing=True) from error
    if missing:
        reason = f"the answer has no {missing[0]}"
        raise RefusedError(reason, passing=True)
    return credentials


def _time(text: str) -> datetime:
    found = datetime.fromisoformat(text.replace("Z", "+00:00"))  # Python 3.10 cannot parse "Z"
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def _keep(cache: Path, credentials: dict[str, Any]) -> None:
    """Write the cache atomically, readable only by its owner.

    Several processes may do so at once, so each has its own temporary file. It is not flushed to the disk:
    credentials that a power cut lost or damaged are requested again.
    """
    try:
        handle, name = tempfile.mkstemp(dir=cache.parent, prefix=cache.name)  # with mode 0600
        with os.fdopen(handle, "w") as file:
            json.dump(credentials, file)
        Path(name).replace(cache)
    except OSError as error:
        sys.stderr.write(f"the credentials cannot be cached in {cache}: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
