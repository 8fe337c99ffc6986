"""Benchmarks of learning, over fedgrass's own simulation.

- learning_curves: one simulation as a curve of accuracy, and the arithmetic of curves
- learning_setups: the simulations of benchmarks.learning
- left_out_station: air quality at a station that no device has
- straggling_fleet: the fleet and the kinds of rounds of benchmarks.stragglers
- curve_pictures: curves as PNG
- simulation_options: the options that these benchmarks share
"""
