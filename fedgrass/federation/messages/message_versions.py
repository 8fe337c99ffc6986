"""Which versions of the protocol's messages this side speaks, and which one two sides have in common.

A release may bring one new version, and then speaks that of the release before as well: a component and a
cloud that are one minor version apart understand each other, whichever is the newer.

Within a version fields are only ever added, each with a default, and a receiver ignores those that it does
not know. A new version is for what that cannot express. It is negotiated for messages about work: a device
says in its heartbeats what it speaks, the cloud announces in the newest common version, and the device
replies in the version of the announcement. What is said to everybody, and hello, stays readable in every
version.
"""

import re
from collections.abc import Collection

SPOKEN = (1,)  # the newest first
FIRST = frozenset({1})  # what a device speaks that does not say: those of before it was asked
_LIST = re.compile(r"[0-9]{1,4}(,[0-9]{1,4}){0,7}")


def spoken() -> str:
    """Return the versions that this side speaks, as a heartbeat says them: with commas between."""
    return ",".join(map(str, SPOKEN))


def parse_versions(text: str) -> frozenset[int]:
    """Return the versions that a heartbeat names; the first one alone if it names none, or nonsense."""
    return frozenset(map(int, text.split(","))) if _LIST.fullmatch(text) else FIRST


def newest_common(theirs: Collection[int]) -> int | None:
    """Return the newest version that both sides speak; None if there is none."""
    return max(set(SPOKEN) & set(theirs), default=None)
