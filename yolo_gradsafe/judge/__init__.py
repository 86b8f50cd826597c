"""The verdict of a step and what it rests on: pure functions and plain numbers."""
