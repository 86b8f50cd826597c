"""Every optimizer step in TensorBoard and MLflow: ``pip install tensorboard mlflow`` first."""

import os
from pathlib import Path

# Settings of its own, or this would switch the loggers on for all your trainings.
os.environ.setdefault("YOLO_CONFIG_DIR", "runs/examples/settings")
os.environ.setdefault("MLFLOW_TRACKING_URI", Path("runs/examples/mlruns").absolute().as_uri())
os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")

from ultralytics import settings

from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.data import draw_detect

settings.update({"tensorboard": True, "mlflow": True})
data = draw_detect(Path("runs/examples/data/detect"), train=32, val=8, size=64)

# The columns gradsafe/* of results.csv, one value an epoch, reach every logger as they are. This adds the steps.
guard = GradSafe(loggers={"steps": True, "every": 4})
model = YOLO("yolo26n.yaml")
model.train(data=str(data), epochs=4, imgsz=64, batch=4, nbs=4, device="cpu", workers=0, callbacks=guard)

print(guard.summary.headline)
print(f"tensorboard --logdir {model.trainer.save_dir}")
print(f"mlflow ui --backend-store-uri {os.environ['MLFLOW_TRACKING_URI']}")
