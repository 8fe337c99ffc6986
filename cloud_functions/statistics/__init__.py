"""Rounds of federated statistics: their query, the merging of the answers, the files that they leave.

- query_file: the query of a run as an object, which devices download like a model
- merge_round: the answers of a round become the merged statistics, or the query of the second round
- statistics_files: the files of a closed round, copied from its drafts once
"""
