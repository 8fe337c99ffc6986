"""Seeded schedules over ports in memory (``python -m tests.chaos --schedules``)."""
