"""The fault-injection campaign: ``python -m tests.chaos`` (``make chaos``)."""
