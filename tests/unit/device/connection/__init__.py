"""Unit tests of subscriptions, credentials and the device file."""
