"""A trainer with an optimizer step of its own: it stays, and is not called for a bad step."""

from pathlib import Path

from torch.nn.utils import clip_grad_norm_
from ultralytics.models.yolo.detect import DetectionTrainer

from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.data import draw_detect
from yolo_gradsafe.drill.faults import NaNPixel


class HeadFirstTrainer(DetectionTrainer):
    """Clips the head apart from the rest, and counts its steps."""

    taken = 0

    def optimizer_step(self) -> None:
        """Take a step; GradSafe measures before and records after it."""
        self.scaler.unscale_(self.optimizer)
        *body, head = self.model.model
        for part in (body, [head]):
            clip_grad_norm_([p for module in part for p in module.parameters()], max_norm=5.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.model)
        self.taken += 1


data = draw_detect(Path("runs/examples/data/detect"), train=32, val=8, size=64)
settings = {"data": str(data), "epochs": 4, "imgsz": 64, "batch": 4, "nbs": 4, "device": "cpu", "workers": 0}

guard, fault = GradSafe(), NaNPixel(epoch=2, batch=3)
model = YOLO("yolo26n.yaml")
model.train(trainer=HeadFirstTrainer, **settings, callbacks=[guard, fault.callbacks])

print(guard.summary.headline)
print(f"optimizer_step was called {model.trainer.taken} times for {guard.summary.steps.total} steps")
