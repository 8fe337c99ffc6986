"""Takes credentials out of log lines, before they are kept: the lines leave the device on request.

The trainer logs none itself. Its SDKs' errors, and whatever the code of a task prints, might.
"""

import os
import re
from collections.abc import Mapping

HIDDEN = "[hidden]"
_NAMES = (
    r"secret[_ -]?access[_ -]?key|secret[_ -]?key|(?:session|security|access|refresh|auth)[_ -]?token|token"
    r"|signature|password|passwd|passphrase|client[_ -]?secret|secret|api[_ -]?key|private[_ -]?key"
)
_PATTERNS = (
    # A key in PEM, also with its line breaks escaped.
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        HIDDEN,
    ),
    # A line of such a key, or of a token, by itself; a SHA-256 in hexadecimal is none.
    (re.compile(r"\A(?![0-9a-fA-F]+\Z)[A-Za-z0-9+/=_-]{60,}\Z"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), HIDDEN),  # access key ids of AWS
    (re.compile(r"(?i)(\bauthorization[\"']?\s{0,3}[:=]\s{0,3}).+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)(\bbearer\s{1,3})[^\s\"',]+"), rf"\1{HIDDEN}"),
    (
        re.compile(rf"(?i)((?:{_NAMES})[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?)[^\s\"',;&}}]+"),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(://[^\s/:@]{0,100}:)[^\s/@]+@"), rf"\1{HIDDEN}@"),  # the password in a URL
)
_SECRET_VARIABLE = re.compile(r"SECRET|TOKEN|PASSWORD|SVCUID|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters: shorter values would hide ordinary words


def hide_secrets(line: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a log line without credentials, tokens, passwords and private keys.

    Args:
        line: one line.
        environment: variables of this process; the values of those named as secrets are hidden too.
    """
    for name, value in environment.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name) and not _is_place(value):
            line = line.replace(value, HIDDEN)
    for pattern, instead in _PATTERNS:
        line = pattern.sub(instead, line)
    return line


def _is_place(value: str) -> bool:
    """Return whether a variable names a file or an address, as AWS_SHARED_CREDENTIALS_FILE does."""
    return value.startswith(("/", "./", "http://", "https://"))
