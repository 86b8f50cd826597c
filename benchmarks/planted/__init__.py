"""Faults with a known truth, for the diagnosis to find."""
