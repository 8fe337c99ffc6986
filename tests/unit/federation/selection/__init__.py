"""Unit tests of the selection strategies, filters and samples."""
