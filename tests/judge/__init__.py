"""Tests of yolo_gradsafe.judge."""
