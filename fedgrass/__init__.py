"""Federated learning of PyTorch models over AWS IoT Greengrass V2 devices."""

__version__ = "0.5.0"
