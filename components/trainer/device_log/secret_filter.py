"""Takes credentials out of log lines, before they are kept: the lines leave the device on request.

The trainer logs none itself. Its SDKs' errors, and whatever the code of a task prints, might.
"""

import re
from collections.abc import Iterable, Mapping

HIDDEN = "[hidden]"
_NAMES = (
    r"secret[_ -]?access[_ -]?key|secret[_ -]?key|(?:session|security|access|refresh|auth)[_ -]?token|token"
    r"|signature|password|passwd|passphrase|client[_ -]?secret|secret|api[_ -]?key|private[_ -]?key"
)
# Each pattern is tried only on lines that have one of its words, in lower case: a worker may print a lot.
_PATTERNS = (
    # A key in PEM, also with its line breaks escaped.
    (
        ("private key",),
        re.compile(
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|\Z)",
            re.DOTALL,
        ),
        HIDDEN,
    ),
    (("akia", "asia"), re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b"), HIDDEN),  # access key ids of AWS
    (
        ("authorization",),
        re.compile(r"(?i)(\bauthorization[\"']?\s{0,3}[:=]\s{0,3}).+"),
        rf"\1{HIDDEN}",
    ),
    (("bearer",), re.compile(r"(?i)(\bbearer\s{1,3})[^\s\"',]+"), rf"\1{HIDDEN}"),
    (
        ("secret", "token", "signature", "passw", "passphrase", "api", "private"),
        re.compile(rf"(?i)((?:{_NAMES})[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?)[^\s\"',;&}}]+"),
        rf"\1{HIDDEN}",
    ),
    (("://",), re.compile(r"(://[^\s/:@]{0,100}:)[^\s/@]+@"), rf"\1{HIDDEN}@"),  # the password in a URL
)
# A line of a private key, or of a token, by itself; a SHA-256 in hexadecimal is none.
_KEY_LINE = re.compile(r"(?![0-9a-fA-F]+\Z)[A-Za-z0-9+/=_-]{60,}")
_SECRET_VARIABLE = re.compile(r"SECRET|TOKEN|PASSWORD|SVCUID|CREDENTIAL", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters: shorter values would hide ordinary words


def hide_secrets(line: str, secrets: Iterable[str] = ()) -> str:
    """Return a log line without credentials, tokens, passwords and private keys.

    Args:
        line: one line.
        secrets: further texts to hide, as ``secrets_of`` returns them.
    """
    if _KEY_LINE.fullmatch(line):
        return HIDDEN
    for secret in secrets:
        line = line.replace(secret, HIDDEN)
    lower = line.lower()
    for words, pattern, instead in _PATTERNS:
        if any(word in lower for word in words):
            line = pattern.sub(instead, line)
    return line


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of the variables that are named as secrets, except names of files and addresses."""
    return tuple(
        value
        for name, value in environment.items()
        if len(value) >= _SHORTEST_SECRET and _SECRET_VARIABLE.search(name) and not _is_place(value)
    )


def _is_place(value: str) -> bool:
    """Return whether a variable names a file or an address, as AWS_SHARED_CREDENTIALS_FILE does."""
    return value.startswith(("/", "./", "http://", "https://"))
