"""Model files that need PyTorch or a task: each function runs in a child process of `fedgrass model`.

    fitting_models.py      whether a model fits a task, and all arrays of the task with it
    pytorch_files.py       files of PyTorch, written and read with weights only
    onnx_files.py          ONNX files of a task's module
    pickled_arrays.py      arrays of a legacy pickle, read by an unpickler that knows nothing else

The console, which must not import PyTorch, starts them by name.
"""
