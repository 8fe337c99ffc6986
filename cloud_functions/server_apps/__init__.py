"""Runs that a ServerApp drives: each round is opened for the messages that it sends.

Several rounds of such a run may be open at the same time; docs/flower.md explains the runs.

Read in this order:

- send_messages: the action ``send``, which opens a round for a list of messages
- message_list: reads that list, and makes the announcement of each device's message
- message_rounds: drives the open rounds of a run, and notes how far they have ended
- device_list: the action ``devices``: which devices the ServerApp may send messages to
"""
