"""Which devices a round asks.

Read in this order:

- candidate_search: the devices that could be asked, from the devices table, and their hourly count
- cohorts: the strategy's choice among them, stored in the bucket
"""
