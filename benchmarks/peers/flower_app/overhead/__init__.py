"""A Flower app with almost no training, to measure the overhead of a round."""
