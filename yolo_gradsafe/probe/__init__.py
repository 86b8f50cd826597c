"""The experiment before training: gradient flow, learning-rate range, gradient norms, precision headroom."""

from yolo_gradsafe.probe.result import ProbeError, ProbeResult
from yolo_gradsafe.probe.run import probe, run_probe

__all__ = ["ProbeError", "ProbeResult", "probe", "run_probe"]
