"""The same NaN batch in the first epoch: stock Ultralytics, then guarded."""

from pathlib import Path

import ultralytics

from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.data import draw_detect
from yolo_gradsafe.drill.faults import NaNPixel

data = draw_detect(Path("runs/examples/data/detect"), train=32, val=8, size=64)
settings = {"data": str(data), "epochs": 4, "imgsz": 64, "batch": 4, "nbs": 4, "device": "cpu", "workers": 0}

fault = NaNPixel(epoch=1, batch=3)
stock = ultralytics.YOLO("yolo26n.yaml")
for event, function in fault.callbacks.items():
    stock.add_callback(event, function)
try:
    stock.train(**settings)
    outcome = "finished"
except RuntimeError as error:
    outcome = f"died: {error}"

guard, fault = GradSafe(), NaNPixel(epoch=1, batch=3)
YOLO("yolo26n.yaml").train(**settings, callbacks=[guard, fault.callbacks])

print(f"stock: {outcome}")
print(f"guarded: {guard.summary.headline}")
