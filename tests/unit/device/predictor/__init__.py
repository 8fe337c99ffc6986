"""Unit tests of the predictor."""
