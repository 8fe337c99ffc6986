"""What a participant adds to its round's counters.

Every change of a participant's state updates the counters by the difference, so that they always equal the
tally of the participants.
"""

from collections.abc import Iterable, Mapping

import msgspec

from fedgrass.federation.rounds import Participant, Participation

_ACCEPTING = frozenset({Participation.ACCEPTED, Participation.REPLIED, Participation.LATE})


def counted(part: Participant) -> dict[str, int]:
    """Return what one participant adds to each counter of its round, by field name."""
    state = part.state
    return {
        "accepted": int(part.accepted),
        "replied": int(state in {Participation.REPLIED, Participation.REFUSED}),
        "refused": int(state is Participation.REFUSED),
        "declined": int(state is Participation.DECLINED),
        "failed": int(state is Participation.FAILED),
        "silent": int(state is Participation.SILENT),
        "late": int(state is Participation.LATE),
        "bytes_up": part.bytes if state is Participation.REPLIED else 0,
    }


def tally(parts: Iterable[Participant]) -> dict[str, int]:
    """Return the counters of a round with these participants."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in counted(part).items():
            total[name] = total.get(name, 0) + count
    return total


def moved(part: Participant, target: Participation, values: Mapping[str, object]) -> Participant:
    """Return a participant moved to the state ``target``, with ``values`` in its other fields."""
    accepted = part.accepted or target in _ACCEPTING
    return msgspec.structs.replace(part, state=target, accepted=accepted, **values)


def difference(old: Participant, new: Participant) -> dict[str, int]:
    """Return by how much each counter changes when a participant changes; unchanged counters are left out."""
    before, after = counted(old), counted(new)
    return {name: after[name] - before[name] for name in after if after[name] != before[name]}
