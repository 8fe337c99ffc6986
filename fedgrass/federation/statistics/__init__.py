"""Federated statistics: what devices compute over their own data, and how the cloud merges it.

Nothing of an answer depends on how the data are split among devices: counts are whole numbers, moments are
exact sums, and sketches are merged by their library. Read the modules in this order:

- statistics_query: what a run asks: features, statistics, edges of histograms
- exact_sums: sums and sums of squares without rounding; mean and variance from them
- quantile_sketches: KLL sketches, checked before the library reads them
- count_noise: noise for counts, histograms and label counts
- statistics_answer: what a device answers; each answer is checked against the query
- data_summary: a device's answer, computed from batches of its data
- statistics_result: the merged statistics of a round
- answer_merger: many answers become one result, in memory that does not grow with their number
- statistics_settings: the settings of a run that apply to statistics
- drift: two results compared
"""
