"""The emulator's servers, through the unmodified AWS SDKs."""
