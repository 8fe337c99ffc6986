"""The component of a task's code: what ``fedgrass task publish`` and the demo build.

``task_component`` makes artifact and recipe from the files that ``task_files`` selects and the requirements
that ``frozen_requirements`` pins; ``task_deployment`` adds it to a deployment with its trainer.
``publishing_options`` has the options of the commands that publish.
"""
