"""Unit tests of training with PyTorch."""
