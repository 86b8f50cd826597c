"""Train a pose model whose keypoint branch and flow are clipped apart from the rest."""

from pathlib import Path

from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.data import draw_pose

data = draw_pose(Path("runs/examples/data/pose"), train=32, val=8, size=64)

# The flow of yolo26-pose starts with norms of 1e5; clipped together, it would scale every other gradient to nothing.
guard = GradSafe("pose", clip={"stages": {"head.flow": {"max_norm": 5.0}, "head.keypoint": {"max_norm": 5.0}}})
model = YOLO("yolo26n-pose.yaml")
model.train(data=str(data), epochs=4, imgsz=64, batch=4, nbs=4, device="cpu", workers=0, callbacks=guard)

print(guard.summary.headline)
