"""Unit tests of fedgrass/federation."""
