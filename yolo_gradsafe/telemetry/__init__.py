"""What a guarded run writes while it trains: the schema of the files, and the recorder that fills them."""

from yolo_gradsafe.telemetry.recorder import Recorder
from yolo_gradsafe.telemetry.schema import Incident, RunInfo, RunPaths, StepRow, Verdict

__all__ = ["Incident", "Recorder", "RunInfo", "RunPaths", "StepRow", "Verdict"]
