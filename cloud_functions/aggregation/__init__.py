"""The new global model of a round from the updates of its devices.

Read in this order:

- new_model: make, draft and keep the model and the server's state
- aggregation_context: what the steps share; updates opened, weighted and clipped
- guarded_strategy: the run's strategy, and the guard around it
- combiner: slice by slice, all updates become one change
- weighted_sum: the sum in a fixed order, and the updates that spoil one
- reader_threads: many updates read at once; columns, norms and whole numbers
- server_step: from the combined change to the new values
- partial_sums: groups of updates summed while a large round is open
- update_reader: a device's update file, read and checked
- model_files: global models, in slices, streamed or held once
"""
