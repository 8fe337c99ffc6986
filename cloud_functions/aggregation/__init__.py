"""How the N updates of a round become one new global model, in memory that N does not change.

A model is cut into slices of a few megabytes. For each slice, the same values of all updates are read and
combined to one change, the change is applied, and the new values are written, before the next slice is read.
Read the modules in this order:

- new_model: the steps of an aggregation, from the updates to the drafts; publishing these
- aggregation_context: what the steps share; the weight of each update, refusal and clipping by norm
- guarded_strategy: the run's strategy, and the checks around a custom one
- update_reader: the file of an update, opened and checked, read slice by slice
- start_models: the older models from which devices of a buffered run started
- combiner: all updates of a slice become one change, as a weighted sum or by columns
- weighted_sum: the sum in a fixed order, and the search for the updates that spoil it
- reader_threads: many updates read at once, as rows of a sum or as columns; norms and products
- server_step: from the combined change to the new values; whole numbers beyond float64
- model_files: models and server state read in slices, written in slices, or streamed
- whole_updates: updates of other lengths than the model, read and merged as a whole
- partial_sums: groups of updates summed while a large round is still open
- collapse_check: warn if the model that a round started from is a collapsed average
"""
