"""What rebuilds a run whose rows the table has lost.

Read in this order:

- manifests: what the bucket keeps of runs and rounds
- rebuilding: the attempts at a run's rounds, from the table or from the bucket
- repair: the action that compares both and puts back the rows
"""
