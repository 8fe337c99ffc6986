"""Runs the ClientApp of a Flower app as a task of the trainer.

- flower_task: the task; both ways meet here: fedgrass's own rounds, and the messages of a ServerApp
- app_configuration: the app's components and settings, read from its pyproject.toml
- app_options: the options of the task that are the app's ``node_config``
- app_import: imports the app from its folder
- app_content: what goes into a call of the app and comes out
- app_requests: a round's model and settings as the content of a message to the app
- app_replies: what a round counts, read from the app's reply
- app_state: the file in which the app's ``context.state`` outlives rounds and restarts
- serialised_arrays: numpy arrays as Flower serialises them
- flower_client: calls the ClientApp; the only module here that imports flwr
"""
