"""One round, from its start to its publication.

Read in this order:

- driver: advances a run from any state to the point where it has to wait; its docstring lists the steps
- start: checks a new run and its initial model, and stores it
- shared_arrays: checks which arrays of a partial model a new run shares
- run_actions: what an operator, a timer or a program can request of a run
- open_round: choose the cohort, set the deadline, store the round
- announce: announce the round to its devices, and to replacements for those that are lost
- replies: count each device's reply once, or refuse it with a reason
- reply_batches: count the replies of many devices at once, in one write
- reminders: look again later at a run that waits, or that a crash may have left
- sweep: look at all living runs every few minutes, and wake those that are stuck
- hellos: announce open work again to a device that has reconnected
- aggregate_round: take the lease of a round and make its new model
- shards: divide the making of a large model among several averagers
- close_round: close, reopen or abandon a round, and compute its metrics
- publish: keep the model of a closed round and announce it as the task's latest
"""
