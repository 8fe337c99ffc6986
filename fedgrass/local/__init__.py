"""fedgrass on a laptop: an embedded cloud, a fleet of emulated Greengrass cores, the demo, checks of tasks.

Read in this order: demo, testbed, fleet_start, local_fleet, plain_devices, aws/embedded_cloud; then
task_check, task_loading, task_process, task_examination, check_report, task_weights, task_sharing, new_task
and task_publishing. local_errors has the errors of all.
"""

from fedgrass.sources import add_to_path

add_to_path()
