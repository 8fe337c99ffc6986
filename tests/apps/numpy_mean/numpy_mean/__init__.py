"""numpy_mean: The mean of vectors, learned with NumPy and Flower's message API."""
