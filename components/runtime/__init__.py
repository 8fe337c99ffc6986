"""What trainer and predictor share: process, event loop, Greengrass IPC, errors, retries and S3 access.

It imports nothing of a component.
"""
