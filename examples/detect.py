"""Train a detector, guarded, and read what the guard saw."""

from pathlib import Path

from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.data import draw_detect

data = draw_detect(Path("runs/examples/data/detect"), train=32, val=8, size=64)

guard = GradSafe("detect")
model = YOLO("yolo26n.yaml")
model.train(data=str(data), epochs=4, imgsz=64, batch=4, nbs=4, device="cpu", workers=0, callbacks=guard)

print(guard.summary.headline)
print(f"median norm {guard.summary.grad_norm.median:.1f}, clipped {guard.summary.steps.clipped_share:.0%} of the steps")
