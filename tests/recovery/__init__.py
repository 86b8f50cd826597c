"""Tests of yolo_gradsafe.recovery."""
