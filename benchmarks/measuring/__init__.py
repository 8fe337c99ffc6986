"""What all benchmarks share: their options, how they measure, and the record of the figures.

- averaging_measures: one measurement of benchmarks.averaging, in a separate process
- benchmark_options: the options that every benchmark has, and the end of a benchmark
- cold_start: how long the functions take to start
- command_start: how long the command line takes to print its help
- file_bucket: files as the averager's bucket
- first_round: a testbed from nothing to its first closed round, part by part
- machine_facts: the machine and the versions that a figure belongs to
- processes: memory, processor time and the end of processes
- question_runner: runs one question after the other
- questions: all questions, in order
- record: docs/benchmarks.json, one entry per question
- round_figures: the figures of a run's rounds
"""
