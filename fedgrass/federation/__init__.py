"""What the cloud and the devices agree on: the round, its messages, weights and averaging.

Nothing here does input or output, reads a clock or draws a random number of its own: time, randomness and
names come in as arguments. The cloud functions and the device components both import this package and never
each other.
"""
