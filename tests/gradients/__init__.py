"""Tests of yolo_gradsafe.gradients."""
