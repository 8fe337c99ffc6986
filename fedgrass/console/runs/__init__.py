"""Runs of a deployed stack: start them, follow them, show what they did.

Read in this order: operator_actions (the commands), fleet_operator (the stack's table, bucket and
functions), streamed_bucket (its objects, sent from and read into memory without copies), live_view, history
and history_picture; dead_letters for ``fedgrass queue``.
"""
