"""Templates of ``fedgrass task new``: complete files of an example task, checked like all other code."""
