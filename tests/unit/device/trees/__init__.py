"""Unit tests of training with gradient-boosted trees."""
