"""Messages from a ServerApp to the tasks of devices, and their replies.

- message_content: the records of one message, and the file that carries them
- node_ids: the numbers by which Flower's apps know devices and runs
- round_messages: which message each device of a round gets
"""
