"""Tests of yolo_gradsafe.telemetry."""
