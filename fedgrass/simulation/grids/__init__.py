"""Many simulations: the cells of a grid of settings and seeds, in processes, on Ray or on AWS Batch."""
