"""Unit tests of the components, without SDKs and processes."""
