"""Tests of yolo_gradsafe.forensics."""
