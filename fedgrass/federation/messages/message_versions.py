"""The versions of the protocol's messages, and how two sides agree on one.

A release may introduce one new version, and then still supports that of the previous release: a component and
a cloud one minor version apart understand each other, whichever is newer.

Within a version fields are only ever added, each with a default, and receivers ignore unknown fields. A new
version is for changes that this cannot express. It is negotiated for messages about work: a device lists its
versions in its heartbeats, the cloud announces in the newest common one, and the device replies in the
version of the announcement. Broadcasts and hello stay readable in every version.
"""

import re
from collections.abc import Collection

SPOKEN = (1,)  # the newest first
FIRST = frozenset({1})  # versions of a device that lists none: one from before versions were listed
_LIST = re.compile(r"[0-9]{1,4}(,[0-9]{1,4}){0,7}")


def spoken() -> str:
    """Return the supported versions as in a heartbeat: numbers separated by commas."""
    return ",".join(map(str, SPOKEN))


def parse_versions(text: str) -> frozenset[int]:
    """Return the versions listed in a heartbeat; only the first one if the list is empty or malformed."""
    return frozenset(map(int, text.split(","))) if _LIST.fullmatch(text) else FIRST


def newest_common(theirs: Collection[int]) -> int | None:
    """Return the newest version that both sides support, or None."""
    return max(set(SPOKEN) & set(theirs), default=None)
