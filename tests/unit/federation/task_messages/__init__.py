"""Unit tests of fedgrass/federation/task_messages."""
