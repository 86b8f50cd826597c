"""Tests of whole trainings."""
