"""The code that runs in Lambda: two handlers, the rounds that they drive, and the AWS adapters.

Read in this order:

- initiator: the handler of actions on runs and of devices' hellos
- averager: the handler of replies, alarms and the jobs of large averages
- wiring: the composition root, where AWS clients are built
- services: the ports in one bundle, passed to every function below
- monitoring: log lines and metrics
- device_limits: limits on the useless messages of a single device
- rounds/: one round, from its start to its publication
- selection/: which devices a round asks
- aggregation/: makes the new model from the updates
- buffers/: buffered runs
- statistics/: rounds of statistics
- server_apps/: rounds that a Flower ServerApp opens
- models/: aliases of models
- devices/: actions on single devices
- recovery/: manifests in the bucket, and the repair of a lost table
- aws/: the ports on AWS
"""
