"""Replacements: ask other devices in place of those that are lost to a round, while there are any."""

from cloud_functions.rounds.announce import announce, remind_of_unaccepted
from cloud_functions.selection import cohorts
from cloud_functions.services import Services
from fedgrass.federation.messages.alarms import Reminder
from fedgrass.federation.rounds import Participant, Participation, Round, State
from fedgrass.federation.runs import Run

_MOST_REPLACED = 49  # in one write: a transaction of DynamoDB has 100 items


def replace_gone(services: Services, run: Run, open_round: Round) -> bool:
    """Ask other devices in place of those that declined or failed, at most as many as fit into one write.

    The next step announces the round to them. If too few other devices are left, all losses are noted as
    replaced, so that no later step searches for them again.

    Returns:
        Whether there was anything to replace.
    """
    missing = open_round.unreplaced
    if not missing:
        return False
    count = min(missing, _MOST_REPLACED)
    known = {participant.device for participant in services.rounds.participants(open_round)}
    chosen = cohorts.choose_others(services, run, open_round, known, count)
    replaced = len(chosen) if len(chosen) == count else missing
    services.rounds.replace(open_round, [], chosen, replaced=replaced, at=services.now())
    _report(services, open_round, chosen, replaced)
    return True


def repeat_unaccepted(services: Services, run: Run, reminder: Reminder) -> None:
    """Announce a round again to the devices of a batch that have not accepted it.

    From the second reminder on, other devices are asked in their place; the announcement is repeated only to
    those that cannot be replaced.
    """
    open_round = _read_open(services, reminder)
    if open_round is None:
        return
    participants = list(services.rounds.participants(open_round))
    silent = [p for p in participants if p.state is Participation.ASKED and p.batch == reminder.batch]
    if reminder.turn > 1 and silent:
        known = {participant.device for participant in participants}
        chosen = cohorts.choose_others(services, run, open_round, known, len(silent))
        for start in range(0, len(chosen), _MOST_REPLACED):
            _replace_silent(services, open_round, silent[start:], chosen[start : start + _MOST_REPLACED])
            open_round = _read_open(services, reminder)
            if open_round is None:
                return
        silent = silent[len(chosen) :]
    if silent:
        announce(services, run, open_round, silent)
        services.report(open_round, f"announced again to {len(silent)} devices that have not accepted")
        remind_of_unaccepted(services, run, open_round, batch=reminder.batch, turn=reminder.turn + 1)


def _read_open(services: Services, reminder: Reminder) -> Round | None:
    """Return the round of a reminder, or None if it is not OPEN or its deadline has passed."""
    round_ = services.rounds.round(reminder.run, reminder.round, reminder.attempt)
    in_time = round_ and round_.state is State.OPEN and services.now() < round_.deadline_at
    return round_ if in_time else None


def _replace_silent(
    services: Services, open_round: Round, silent: list[Participant], chosen: list[str]
) -> None:
    """Give up one silent device for each of the devices chosen in their place."""
    services.rounds.replace(open_round, silent[: len(chosen)], chosen, replaced=0, at=services.now())
    _report(services, open_round, chosen, len(chosen))


def _report(services: Services, open_round: Round, chosen: list[str], replaced: int) -> None:
    if chosen:
        names = ", ".join(chosen)
        services.report(open_round, f"{len(chosen)} other devices asked in place of {replaced}: {names}")
