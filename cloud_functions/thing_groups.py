"""Thing groups of AWS IoT, from the device registry."""

from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

_THINGS_PER_PAGE = 250  # the most that IoT gives


class IotThingGroups:
    """The ``ThingGroups`` of one account and region.

    Args:
        client: returns the client of IoT; called on use, since it is slow to make and few runs have a group.
    """

    def __init__(self, client: Callable[[], Any]) -> None:
        self._client = client

    def members(self, group: str) -> frozenset[str]:
        """Return the things of a group and of the groups in it; raises KeyError if there is no such group."""
        pages = (
            self._client()
            .get_paginator("list_things_in_thing_group")
            .paginate(thingGroupName=group, recursive=True, PaginationConfig={"PageSize": _THINGS_PER_PAGE})
        )
        try:
            return frozenset(thing for page in pages for thing in page["things"])
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceNotFoundException":
                raise
            raise KeyError(group) from error
