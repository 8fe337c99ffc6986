"""The tasks that are built in, and what a task of one's own looks like (``task.py``)."""
