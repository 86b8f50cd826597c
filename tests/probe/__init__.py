"""The experiment before training."""
