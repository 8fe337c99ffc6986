"""Messages from this process to devices, and what becomes of each, in rounds of a run with a ServerApp.

- message_exchange: sends messages and collects their outcomes; read it first
- exchange_ports: what it needs of the fleet, who observes it, and how it ends
- content_files: the files of contents, made of the arrays' own memory
- message_queue: which messages may be sent now
- open_rounds: the rounds in which messages are outstanding
- message_outcomes: a reply, checked, or a failure with its reason
- patient_fleet: waits for AWS where it is out of reach
- exchange_view: what the operator sees
"""
