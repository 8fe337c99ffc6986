"""torch_batchnorm: Handwritten digits with PyTorch, batch normalization and Flower's message API."""
