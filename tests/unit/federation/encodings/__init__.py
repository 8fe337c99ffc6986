"""Unit tests of the encodings of models and updates."""
