"""The devices of a deployed stack, for the operator.

device_logs.py   the last log lines of one device
"""
