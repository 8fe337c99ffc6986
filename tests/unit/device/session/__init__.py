"""Unit tests of the trainer's session, its configuration and its restarts."""
