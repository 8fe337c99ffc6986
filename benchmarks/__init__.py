"""Benchmarks, one module per question: ``python -m benchmarks.<question> [--quick] [--record]``.

With ``--quick`` a benchmark takes less than a minute. The last line of its output is one JSON object, which
``--record`` also writes into docs/benchmarks.json. ``python -m benchmarks`` asks all questions in turn
(``make bench``). What the questions share:

- measuring: options, processes, figures, the record of what was measured
- peers: the systems that fedgrass is compared with, and fedgrass's own fleet, in the same form
- fleets: prepared tables of large fleets
- simulated: set-ups and curves of simulated runs
- pages: docs/benchmarks.md and its pictures, from the record
"""
