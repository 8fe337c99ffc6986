"""``fedgrass dashboard``: its options. See dashboard/shown_stacks.py."""

from typing import Annotated

from fedgrass.console.command_line import whole_number
from fedgrass.console.deferred import deferred

_show = deferred("fedgrass.console.dashboard.shown_stacks:show_dashboard")
_Port = Annotated[int, whole_number(0, 65_535, metavar="PORT", show_default=False)]


def dashboard(
    *,
    stack: list[str] | None = None,
    profile: list[str] | None = None,
    region: list[str] | None = None,
    host: str = "127.0.0.1",
    port: _Port = 0,
    allow_host: list[str] | None = None,
    read_only: bool = False,
) -> None:
    """Serve a page that shows stacks live in the browser, and acts on them.

    It prints its URL, and ends with Ctrl-C. The credentials stay in this process: the page has none.

    Args:
        stack: CloudFormation stack of a fleet; repeat it to show several side by side (fedgrass).
        profile: profile of the AWS CLI with the credentials (AWS_PROFILE), once for all stacks or for each.
        region: AWS region of the stack (AWS_REGION), once for all stacks or for each.
        host: address to listen on. On any but a loopback one, the page needs the token that is printed.
        port: port to listen on; 0: a free one.
        allow_host: further name by which browsers address the page, such as localhost:9000 with a tunnel.
        read_only: refuse all actions.
    """
    _show(
        stacks=stack or ["fedgrass"],
        profiles=profile or [],
        regions=region or [],
        host=host,
        port=port,
        allow_host=allow_host or [],
        read_only=read_only,
    )
