"""Unit tests of the messages of ServerApps."""
