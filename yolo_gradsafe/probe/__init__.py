"""The experiment before training: gradient flow, learning-rate range, gradient norms, precision headroom."""

from yolo_gradsafe.probe.experiment import probe, run_probe
from yolo_gradsafe.probe.result import ProbeError, ProbeResult

__all__ = ["ProbeError", "ProbeResult", "probe", "run_probe"]
