"""What runs on a laptop: the embedded cloud, a fleet of emulated cores, the demo, the checks of a task.

Read in this order: demo, testbed, local_fleet, plain_devices, aws/embedded_cloud; then task_check,
task_examination.
"""

from fedgrass.sources import add_to_path

add_to_path()
