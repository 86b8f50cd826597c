"""Tests of yolo_gradsafe.drill."""
