"""What the long-lived process publishes and decides; it imports no SDK.

Read in this order: device_session, presence and heartbeat_watchdog, eligibility, task_readiness, assignment,
completion_message, device_context, journal, error_feedback, run_files, outbox, restarts; session_ports is
what the session needs of others.
"""
