"""The components as processes and with unmodified SDKs."""
