"""RT-DETR, with the clip that the DETR family is trained with."""

from pathlib import Path

from yolo_gradsafe import RTDETR, GradSafe
from yolo_gradsafe.data import draw_detect

data = draw_detect(Path("runs/examples/data/detect-160"), train=4, val=2, size=160)

guard = GradSafe("rtdetr")  # max_norm 0.1, and the remedies
model = RTDETR("rtdetr-resnet50.yaml")
model.train(data=str(data), epochs=2, imgsz=160, batch=2, nbs=2, device="cpu", workers=0, callbacks=guard)

print(guard.summary.headline)
print(f"threshold {guard.summary.threshold:g}, median norm {guard.summary.grad_norm.median:.3g}")
