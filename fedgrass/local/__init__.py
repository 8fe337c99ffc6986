"""fedgrass on a laptop: an embedded cloud, a fleet of emulated Greengrass cores, the demo, checks of tasks.

Read in this order: demo, testbed, local_fleet, plain_devices, aws/embedded_cloud; then task_check,
task_examination.
"""

from fedgrass.sources import add_to_path

add_to_path()
