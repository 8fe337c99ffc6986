"""Buffered runs: devices train at their own pace, and every few replies make a new model.

A round is a buffer: it is OPEN until it has enough replies, whichever models these started from. A device's
row stays in the round of its announcement while it trains. Its final message is counted in the buffer that is
open when it arrives. docs/buffered_rounds.md explains the rules.

Read in this order:

- flight: the devices that train; fill vacant places, give up devices that are overdue or too far behind
- buffer_replies: the messages of devices whose round may have closed since it was announced
"""
