"""The custom strategies in the functions of a stack, and the living runs that use them.

A deployment keeps the strategies that are deployed, so it reads the zip of the deployed function. It refuses
to remove one that a living run needs: that run's next round would be abandoned.
"""

import io
import urllib.request
import zipfile
from collections.abc import Mapping
from urllib.error import URLError
from urllib.parse import urlsplit

from fedgrass.console.aws_clients import Clients
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.console.stack import StackError
from fedgrass.console.strategies.custom_strategies import CustomStrategy, packed_strategies
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.runs import LIVING

_LARGEST_ZIP = 300_000_000  # bytes; Lambda's limit is 250 MB unpacked
_SECONDS = 60.0
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def deployed_strategies(clients: Clients, function: str) -> dict[str, CustomStrategy]:
    """Return the custom strategies in the deployed code of a function, by module.

    Raises:
        StackError: the code cannot be read. Without it, a deployment could drop strategies.
    """
    location: str = clients("lambda").get_function(FunctionName=function)["Code"]["Location"]
    try:
        content = _download(location)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return packed_strategies(archive)
    except (URLError, OSError, ValueError, zipfile.BadZipFile, KeyError) as error:
        message = (
            f"the code of {function} cannot be read ({error}), so it is unknown which custom strategies are"
            " deployed, and nothing was changed: try again"
        )
        raise StackError(message) from error


def living_uses(clients: Clients, outputs: Mapping[str, str]) -> dict[str, str]:
    """Return the ``aggregation`` of each run that has not ended, by the run's name."""
    operator = Operator(clients, outputs)
    living = [name for name, state in operator.runs().items() if state in LIVING]
    return {name: operator.run(name).settings.aggregation for name in living}


def check_uses(
    uses: Mapping[str, str], before: Mapping[str, CustomStrategy], after: Mapping[str, CustomStrategy]
) -> None:
    """Check that the strategies of living runs stay.

    Args:
        uses: ``aggregation`` of each living run, by its name.
        before: strategies that are deployed, by module.
        after: strategies that would be deployed.

    Raises:
        SettingsError: a run would lose its strategy.
    """
    had, has = (
        {one for strategy in strategies.values() for one in strategy.classes}
        for strategies in (before, after)
    )
    lost = {run: name for run, name in uses.items() if name in had - has}
    if lost:
        listed = ", ".join(f"{run!r} uses {name}" for run, name in sorted(lost.items()))
        message = (
            f"runs that have not ended would lose their strategy: {listed}. Keep it, or cancel the runs with"
            " `fedgrass run cancel NAME`"
        )
        raise SettingsError(message)


def _download(location: str) -> bytes:
    """Return what is at a presigned URL of AWS. Raises ValueError if it is not HTTPS, except on loopback."""
    parts = urlsplit(location)
    is_here = parts.hostname in _LOOPBACK
    if parts.scheme != "https" and not is_here:
        message = f"it is at {parts.scheme}://{parts.hostname}"
        raise ValueError(message)
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_here else []))
    with opener.open(location, timeout=_SECONDS) as answer:
        content: bytes = answer.read(_LARGEST_ZIP + 1)
    if len(content) > _LARGEST_ZIP:
        message = f"it is larger than {_LARGEST_ZIP:,} bytes"
        raise ValueError(message)
    return content
