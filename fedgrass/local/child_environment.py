"""The environment of every process that the demo starts, whatever the developer's shell has set.

A proxy of the developer's network cannot reach this machine's loopback addresses, and a locale whose encoding
is not UTF-8 must not decide how a function, a component or a tool reads and writes text.
"""

from collections.abc import Mapping

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


def local_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that a child process needs, given the environment of this process.

    Both spellings of ``NO_PROXY`` are set: curl and Python read the one in lower case first, other programs
    know only the one in upper case. Hosts that either of them names already are kept.
    """
    named = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for value in named for host in value.split(",") if host.strip()]
    everybody = ",".join(dict.fromkeys([*hosts, *LOOPBACK_NAMES]))
    return {"NO_PROXY": everybody, "no_proxy": everybody, "PYTHONUTF8": "1"}
