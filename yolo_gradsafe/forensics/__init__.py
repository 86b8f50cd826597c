"""The culprit of a bad step."""
