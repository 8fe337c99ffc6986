"""What the cloud and the devices share: the round, its messages, weights and averaging.

This package performs no input or output, reads no clock and creates no random generator: time, randomness and
names are arguments. The cloud functions and the device components both import it, and never each other.
"""
