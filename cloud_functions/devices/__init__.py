"""Actions of the operator on single devices.

- forget_device: the removal of a device from the devices table
- log_requests: the request for a device's log lines
"""
