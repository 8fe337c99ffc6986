"""Models that an operator has named: aliases of a task's models, and imported ones.

model_alias.py      the record of an alias in the bucket, with its history
imported_model.py   what is known of a model that was not trained here

Both are objects in the bucket, whose keys are in object_keys.py.
"""
