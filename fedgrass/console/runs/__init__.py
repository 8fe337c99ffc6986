"""Runs of a deployed stack: start them, follow them, show what they did.

The commands of ``fedgrass run``: run_start (with given_settings and initial_model_file), run_forecast (the
dry run), run_display, run_follow, operator_actions, run_download; run_costs estimates what a run costs. They
use fleet_operator (the stack's table, bucket and functions), streamed_bucket (its objects, sent from and read
into memory without copies), live_view, history and history_picture; dead_letters for ``fedgrass queue``.
"""
