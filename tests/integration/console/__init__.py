"""The fedgrass command against the embedded cloud."""
