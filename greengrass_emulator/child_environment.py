"""The environment variables of child processes, independent of the developer's shell.

A proxy of the developer's network cannot reach loopback addresses, and a locale whose encoding is not
UTF-8 must not decide how a child process reads and writes text.

Components get the environment of a nucleus that systemd has started: neither credentials nor settings of
Python or pip nor a locale of the developer's shell reach them, only the files in the component user's home.
"""

from collections.abc import Mapping
from pathlib import Path

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")

_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_NO_PROXY = "no_proxy"


def local_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a child process needs, given the environment of this process.

    Both spellings of ``NO_PROXY`` are set: curl and Python read the one in lower case first, other programs
    know only the one in upper case. Hosts that either variable already lists are kept.
    """
    named = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for value in named for host in value.split(",") if host.strip()]
    exempt = ",".join(dict.fromkeys([*hosts, *_LOOPBACK_NAMES]))
    return {"NO_PROXY": exempt, "no_proxy": exempt, "PYTHONUTF8": "1"}


def base_environment(operator: Mapping[str, str], home: Path, user: str) -> dict[str, str]:
    """Return the environment of a component's process as systemd would set it.

    It takes the search path and the proxies from the operator's environment: a core behind a proxy is
    configured with them.

    Args:
        operator: the environment of the process that the core runs in.
        home: the home of the user that components run as.
        user: that user's name.
    """
    return {
        "PATH": operator.get("PATH") or _DEFAULT_PATH,
        "HOME": str(home),
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        **_proxies(operator),
    }


def _proxies(operator: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies in both spellings, and loopback, where the core's services are, excepted."""
    chosen = {name: operator.get(name) or operator.get(name.upper()) for name in _PROXIES}
    proxies = {name: value for name, value in chosen.items() if value}
    if not proxies:
        return {}
    proxies[_NO_PROXY] = local_variables(operator)[_NO_PROXY]
    return proxies | {name.upper(): value for name, value in proxies.items()}
