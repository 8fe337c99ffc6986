"""Unit tests of the candidates and cohorts of a round."""
