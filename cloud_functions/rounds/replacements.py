"""Devices that are lost to a round: others are asked in their place, as long as there are any."""

from cloud_functions.rounds.open_round import announce, remind_of_unaccepted
from cloud_functions.selection import cohorts
from cloud_functions.services import Services
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run

MOST_REPLACED = 49  # in one write: a transaction of DynamoDB has 100 items


def replace_gone(services: Services, run: Run, current: Round) -> bool:
    """Ask other devices in place of those that declined or failed, as many as one write takes.

    Return whether there was something to do; the new ones are announced to by the next step. Where too few
    others are left, the losses are noted all the same, so that nobody looks for them again.
    """
    missing = current.unreplaced
    if not missing:
        return False
    wanted = min(missing, MOST_REPLACED)
    chosen = _others(services, run, current, wanted)
    replaced = len(chosen) if len(chosen) == wanted else missing
    services.rounds.replace(current, [], chosen, replaced=replaced, at=services.now())
    _tell(services, current, chosen, replaced)
    return True


def repeat_unaccepted(services: Services, run: Run, reminder: Reminder) -> None:
    """Announce again to devices of a batch that have not accepted; at the second turn give it to others."""
    current = _open(services, reminder)
    if current is None:
        return
    parts = list(services.rounds.participants(current))
    # They heard of the work: it is their reminder.
    silent = [p for p in parts if p.state is Participation.ASKED and p.batch == reminder.batch]
    if reminder.turn > 1 and silent:
        chosen = cohorts.choose_others(services, run, current, {p.device for p in parts}, len(silent))
        for start in range(0, len(chosen), MOST_REPLACED):
            _replace_silent(services, current, silent[start:], chosen[start : start + MOST_REPLACED])
            current = _open(services, reminder)
            if current is None:
                return
        silent = silent[len(chosen) :]
    if silent:  # nobody else is left: they keep their place and hear of it again
        announce(services, run, current, silent)
        services.tell(current, f"announced again to {len(silent)} devices that have not accepted")
        remind_of_unaccepted(services, run, current, batch=reminder.batch, turn=reminder.turn + 1)


def _open(services: Services, reminder: Reminder) -> Round | None:
    """Return the round of a reminder if there is time left in it."""
    current = services.rounds.round(reminder.run, reminder.round, reminder.attempt)
    in_time = current and current.state is State.OPEN and services.now() < current.deadline_at
    return current if in_time else None


def _replace_silent(services: Services, current: Round, silent: list[Participant], chosen: list[str]) -> None:
    """Give up as many silent devices as others were chosen for them."""
    services.rounds.replace(current, silent[: len(chosen)], chosen, replaced=0, at=services.now())
    _tell(services, current, chosen, len(chosen))


def _others(services: Services, run: Run, current: Round, wanted: int) -> list[str]:
    known = {part.device for part in services.rounds.participants(current)}
    return cohorts.choose_others(services, run, current, known, wanted)


def _tell(services: Services, current: Round, chosen: list[str], replaced: int) -> None:
    if chosen:
        names = ", ".join(chosen)
        services.tell(current, f"{len(chosen)} other devices asked in place of {replaced}: {names}")
