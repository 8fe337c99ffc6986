"""Unit tests of repair and of restored tables."""
