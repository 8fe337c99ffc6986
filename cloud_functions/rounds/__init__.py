"""One round, from its start to its publication.

Read in this order:

- driver: advances a run from any state to the next step; starts a run
- run_actions: what an operator, a timer or a program may request of a run
- initial_models: the model that a run starts from
- open_round: choose the cohort, store the round, announce it
- replies: count each device's reply once, or refuse it by name
- replacements: ask other devices in place of those that are lost
- hellos: announce open work again to a device that comes back
- reminders: look again later at a run that waits
- sweep: look at every living run every few minutes
- aggregate_round: under a lease, make the new model of a round
- shards: divide the making of a large model among several averagers
- close_round: close, reopen or abandon a round, and publish its model
"""
