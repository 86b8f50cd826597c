"""Tests of yolo_gradsafe.data."""
