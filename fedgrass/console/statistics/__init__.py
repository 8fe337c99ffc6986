"""``fedgrass stats``: start runs of federated statistics, show and compare their results.

- statistics_actions: carries out the commands
- query_options: the query that the options of `stats start` describe
- statistics_tables: results and comparisons as tables
- statistics_picture: a result as a picture
"""
