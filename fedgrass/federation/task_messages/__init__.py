"""Messages from a ServerApp to the tasks of devices, and their replies.

- message_content: the records of one message, and the file that carries them
- content_reader: reads such a file from a stream
- round_messages: which message each device of a round gets
"""
