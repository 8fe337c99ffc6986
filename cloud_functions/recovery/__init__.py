"""Rebuilds a run whose rows are lost from the table.

Read in this order:

- manifests: the copies of runs and rounds in the bucket
- rebuilding: the attempts at a run's rounds, from the table or from the bucket
- message_rebuilding: the same of a run with a ServerApp
- repair: the action that compares both and restores the rows
"""
