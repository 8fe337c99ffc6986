"""Messages from a ServerApp to the tasks of devices, and their replies.

- message_content: the records of one message, and the file that carries them
- content_reader: reads such a file from a stream
- node_ids: the numbers by which Flower's apps know devices and runs
- round_messages: which message each device of a round gets
- server_app_settings: which settings a run with a ServerApp does not have
"""
