"""Unit tests of the command ``fedgrass stats``."""
