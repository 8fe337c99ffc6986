"""``fedgrass model``: the models of a fleet, by name.

    model_names.py        RUN/ROUND, or the alias of a task
    model_catalogue.py    the models of runs, with their metrics and aliases
    model_lineage.py      where a model is from: the replies that made it, and its ancestors
    model_displays.py     lists and lineages as tables
    model_pull.py         a model as a file, checked
    model_comparison.py   what differs between two models, array by array
    alias_moves.py        promote and roll back
    model_import.py       an initial model from a file
    child_work.py         what runs in a child process
    model_export.py       safetensors, PyTorch and ONNX
    pickle_conversion.py  legacy pickles, offline

What needs PyTorch runs in a child process: fedgrass/local/model_files/.
"""
