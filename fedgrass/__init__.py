"""Federated learning of PyTorch models over AWS IoT Greengrass V2 devices."""

__version__ = "0.4.0"
