"""Tasks: their interface (``task.py``), how they are loaded, and the built-in ones.

``registry.py`` finds and creates a task by name, ``task_release.py`` finds the code that a component
brought, ``task_modules.py`` imports users' files, ``partition.py`` splits a data set among devices,
``data_sets.py`` reads published data sets, ``shared_reads.py`` reads them once for many virtual devices. The
tasks: digits, mnist, cifar10, air_quality, and noise, which trains nothing.
"""
