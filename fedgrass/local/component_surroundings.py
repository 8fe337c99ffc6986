"""The environment in which a nucleus starts components, before it adds its own variables.

A nucleus is started by systemd and runs components as a user of their own. Nothing that a developer's shell
has set reaches them, neither credentials nor settings of Python or pip nor a locale; what the component user
has in its home does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from fedgrass.local.child_environment import local_variables

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_NO_PROXY: Final = "no_proxy"


def base_environment(operator: Mapping[str, str], home: Path, user: str) -> dict[str, str]:
    """Return the environment of a component's process as systemd makes it.

    Of the operator's it has the search path, and the proxies: a core behind one is configured with them.

    Args:
        operator: the environment of the process that the core runs in.
        home: the home of the user that components run as.
        user: that user's name.
    """
    return {
        "PATH": operator.get("PATH") or DEFAULT_PATH,
        "HOME": str(home),
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/sh",
        **_proxies(operator),
    }


def _proxies(operator: Mapping[str, str]) -> dict[str, str]:
    """Return the proxies in both spellings, and that the core's own services on loopback go without."""
    chosen = {name: operator.get(name) or operator.get(name.upper()) for name in _PROXIES}
    proxies = {name: value for name, value in chosen.items() if value}
    if not proxies:
        return {}
    proxies[_NO_PROXY] = local_variables(operator)[_NO_PROXY]
    return proxies | {name.upper(): value for name, value in proxies.items()}
