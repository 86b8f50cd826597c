"""A clipping rule of one's own: by global norm, with a limit that falls from step to step."""

from pathlib import Path
from typing import Any

from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.clipping import Clip, Observation, register
from yolo_gradsafe.data import draw_detect
from yolo_gradsafe.gradients.norms import Gradients, clip_by_norm_


@register("falling")
class FallingClipper:
    """Clip at ``start``, then at one step's limit times ``decay`` in the next."""

    def __init__(self, start: float = 50.0, decay: float = 0.95) -> None:
        self.limit = start
        self.decay = decay

    def clip_(self, gradients: Gradients, observation: Observation) -> Clip:
        """Clip in place; called with finite gradients only."""
        clip = Clip(self.limit, clip_by_norm_(gradients, observation.norm, self.limit))
        self.limit *= self.decay
        return clip

    def state_dict(self) -> dict[str, Any]:
        """Return what the rule has learnt."""
        return {"limit": self.limit}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.limit = state["limit"]


data = draw_detect(Path("runs/examples/data/detect"), train=32, val=8, size=64)
guard = GradSafe(clip={"mode": "falling", "options": {"decay": 0.9}})
model = YOLO("yolo26n.yaml")
model.train(data=str(data), epochs=3, imgsz=64, batch=4, nbs=4, device="cpu", workers=0, callbacks=guard)

print(f"{guard.summary.headline} The last threshold was {guard.summary.threshold:.3g}.")
