"""Telling what is wrong with a step, and undoing what it did."""
