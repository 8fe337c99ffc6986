"""A load test of a deployed cloud: thousands of light devices over real MQTT, S3 and rules.

swarm_action.py     the command: options, files, tables
swarm_run.py        one load test, from the first connection to the report
swarm_cloud.py      the cloud that is tested: embedded, or a deployed stack
swarm_things.py     the things of the devices, created and removed
machine_limits.py   whether this machine can carry the swarm
crowd_processes.py  the processes of the devices, as their parent sees them
devices/            the devices
swarm_spec.py       what the processes receive and report
swarm_measures.py   processes, queues, function time, requests to DynamoDB
swarm_figures.py    the figures of the report, and the bottleneck
swarm_picture.py    its picture
swarm_errors.py     the errors
"""
