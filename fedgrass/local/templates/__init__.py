"""What ``fedgrass task new`` writes: real files, checked like all others, under the names of an example."""
