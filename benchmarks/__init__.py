"""Benchmarks, each a program: ``python -m benchmarks.<name> [--quick]``.

With ``--quick`` a benchmark takes less than a minute. The last line of its output is one JSON object.
"""
