"""What a hello drives: the open work of the device that said it, and runs that it can set going again."""

from cloud_functions import cohorts
from cloud_functions.cloud import Cloud
from cloud_functions.opening import announce
from fedgrass.federation.alarms import Reminder
from fedgrass.federation.rounds import Participation, Round, State, next_event
from fedgrass.federation.runs import Open, Run, next_step

_UNDONE = frozenset({Participation.ASKED, Participation.ACCEPTED})


def hear(cloud: Cloud, device: str) -> None:
    """Announce to a device that came (back) its open work, and wake the runs that it can help.

    Only living runs are read, and of each no more than its own row, its newest round and this device's part.
    """
    for run, newest in cloud.living_runs():
        if newest and newest.state is State.OPEN:
            part = cloud.rounds.participant(newest, device)
            if part and part.state in _UNDONE:
                announce(cloud, run, newest, [part])
                cloud.tell(newest, "announced again after its hello", device=device)
        if _can_go_on(cloud, run, newest, device):
            # The averager's queue drives it, and as the reminder that the run waits for: one look per wait.
            cloud.alarms.remind(Reminder(run=run.name, at=run.look_at), 0)


def _can_go_on(cloud: Cloud, run: Run, newest: Round | None, device: str) -> bool:
    """Return whether a run stands still that need not: it waited for a device, or an alarm was lost."""
    if newest and newest.state in {State.OPEN, State.AGGREGATING}:
        return next_event(newest, cloud.now()) is not None
    if run.round and newest is None:
        return False  # its row is lost: that is for `repair`
    if not isinstance(next_step(run, newest, cloud.now()), Open):
        return False
    if run.waiting_since and cloud.now() < run.look_at:
        found = cloud.devices.find(device)
        return found is not None and cohorts.requirements(cloud, run.settings).suits(found)
    return True
