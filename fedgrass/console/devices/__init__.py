"""The command group ``fedgrass devices``: which devices a fleet has, what one of them did, and forgetting it.

- registered_devices: carries out the commands
- device_filters: which devices ``list`` shows
- device_summary: a fleet in a few lines
- device_records: the devices as rows and as JSON
- device_history: what a device did in its last rounds, from the turnarounds table
- slow_parts: which part of its turnarounds makes a device slower than the fleet
- device_registration: certificates and thing groups, from AWS IoT
- device_report: everything that is known of one device
- ages: ages and durations for people
- device_views: how all of this is printed
- device_logs: the last log lines of one device
"""
