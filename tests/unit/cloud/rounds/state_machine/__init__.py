"""Property tests: any order of messages, crashes and races in a run."""
