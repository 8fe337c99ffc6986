"""``fedgrass dashboard``: open the stacks that its options name, and serve their page."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec

from fedgrass.console import stack
from fedgrass.console.dashboard.fleet_state import open_fleet_state
from fedgrass.console.dashboard.pages.page_actions import Actions
from fedgrass.console.dashboard.pages.page_sources import FleetSource, ShownStack
from fedgrass.console.dashboard.stack_models import StackModels
from fedgrass.console.deferred import deferred
from fedgrass.console.runs.fleet_operator import Operator
from fedgrass.federation.errors import SettingsError
from fedgrass.sources import install_extra

_NEEDED = "nicegui"  # the extra `dashboard` brings it
_serve = deferred("fedgrass.console.dashboard.page_server:serve")
OpenSource = Callable[[str, str, str], FleetSource]


def show_dashboard(  # noqa: PLR0913 - the options of the command
    *,
    stacks: Sequence[str],
    profiles: Sequence[str],
    regions: Sequence[str],
    host: str,
    port: int,
    allow_host: Sequence[str],
    read_only: bool,
) -> None:
    """Serve the page of these stacks until the process is interrupted.

    Args:
        stacks: names of the stacks.
        profiles: profiles of the AWS CLI: none, one for all stacks, or one for each.
        regions: AWS regions, in the same way.
        host: address to listen on.
        port: to listen on; 0: a free one.
        allow_host: further names by which browsers may address the page.
        read_only: whether no action is offered, and all are refused.

    Raises:
        SettingsError: an option is invalid, or the packages of the page are not installed.
        StackError: a stack does not exist, or AWS refused the request.
    """
    if find_spec(_NEEDED) is None:
        message = f"the dashboard needs the extra 'dashboard': {install_extra('dashboard')}"
        raise SettingsError(message)
    with stack.refusals():
        shown = opened(stacks, profiles, regions, read_only=read_only)
    _serve(shown, host=host, port=port, allow_host=allow_host, read_only=read_only)


def opened(
    stacks: Sequence[str],
    profiles: Sequence[str],
    regions: Sequence[str],
    *,
    read_only: bool,
    open_source: OpenSource = open_fleet_state,
) -> list[ShownStack]:
    """Return the stacks that the options name. Raises as ``show_dashboard`` does."""
    places = list(
        zip(
            stacks,
            for_each(stacks, profiles, "--profile"),
            for_each(stacks, regions, "--region"),
            strict=True,
        )
    )
    if len(set(places)) < len(places):
        message = "a stack is named twice: --stack takes each stack of the page once"
        raise SettingsError(message)
    return [
        ShownStack(_label(place, stacks), open_source(*place), _actions(*place, read_only=read_only))
        for place in places
    ]


def for_each(stacks: Sequence[str], given: Sequence[str], option: str) -> Sequence[str]:
    """Return a value of an option for each stack: none, the same for all, or one each in their order."""
    if len(given) in {0, 1}:
        return [*(given or [""])] * len(stacks)
    if len(given) != len(stacks):
        count = "1 stack" if len(stacks) == 1 else f"{len(stacks)} stacks"
        message = f"{option} is given {len(given)} times for {count}: give it once, or per --stack"
        raise SettingsError(message)
    return given


def _label(place: tuple[str, str, str], stacks: Sequence[str]) -> str:
    """Return the name of a stack, with what distinguishes it from others of the same name."""
    name, profile, region = place
    more = [part for part in (profile, region) if part]
    return f"{name} ({', '.join(more)})" if list(stacks).count(name) > 1 and more else name


def _actions(name: str, profile: str, region: str, *, read_only: bool) -> Actions:
    @cache  # made at the first action, so that the page also opens without the right to act
    def operator() -> Operator:
        clients = stack.clients_of(profile, region)
        return Operator(clients, stack.outputs(name, clients))

    return Actions(operator, StackModels(operator), read_only=read_only)
