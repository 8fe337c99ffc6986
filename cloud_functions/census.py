"""The census: every hour, how many devices could be asked by the runs that go on.

A round that asks a ``count`` of devices reads a sample of the table alone, however many are missing from the
rest. EventBridge Scheduler sends the census where the stack has the alarm ``DevicesMissing``.
"""

from cloud_functions.cloud import Cloud
from cloud_functions.metrics import Metric
from fedgrass.federation.runs import RunState


def count(cloud: Cloud) -> None:
    """Measure how many devices were seen as lately as the most patient run asks; without a run, nothing."""
    patience = [
        run.settings.seen_within_seconds for run, _ in cloud.living_runs() if run.state is RunState.RUNNING
    ]
    if patience:
        seen = cloud.devices.count(cloud.now() - max(patience) * 1000)
        cloud.log.measure(Metric.DEVICES_SEEN, seen)
