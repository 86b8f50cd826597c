"""A kept batch once more, outside training: does it fail again, and how do the layers look?"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_gradsafe.adapter.replay import Replay, ReplayResult
from yolo_gradsafe.adapter.stock_models import load_for_loss
from yolo_gradsafe.forensics.activations import ActivationStats, activation_hooks
from yolo_gradsafe.forensics.archive import load_batch
from yolo_gradsafe.forensics.case import Surroundings
from yolo_gradsafe.forensics.diagnose import Cap, diagnose
from yolo_gradsafe.forensics.diagnosis import Diagnosis
from yolo_gradsafe.telemetry.schema import Cause

__all__ = ["Rerun", "layer_table", "rerun"]

_STAGE = re.compile(r"model\.\d+|[^.]+")


@dataclass(frozen=True)
class Rerun:
    """What came of it."""

    recorded: Diagnosis
    """What the training's own diagnosis came to."""
    culprit: Diagnosis
    """What this one does."""
    outcome: ReplayResult
    """The losses, in the precision of the fault."""
    layers: list[ActivationStats]
    """The model's layers in their order, and the culprit where it is within one."""

    @property
    def failed(self) -> bool:
        """Whether the batch failed again."""
        return not self.outcome.finite or self.culprit.cause not in (Cause.TRANSIENT, Cause.UNKNOWN)


def rerun(archive: Path, weights: str, device: str = "cpu", cap: Cap | None = None) -> Rerun:
    """Run a kept batch through a model.

    Args:
        archive: The ``.npz`` file of the batch.
        weights: A checkpoint or model YAML, as Ultralytics names them.
        device: Where to run it.
        cap: What the diagnosis may cost.

    Raises:
        ArchiveError: The file is missing or is not a batch that GradSafe kept.
        ValueError: The weights cannot be loaded, or the batch does not fit them.
    """
    batch, meta = load_batch(archive)
    recorded = _recorded(meta)
    model = load_for_loss(weights, device)
    scale = float(meta.get("amp_scale", 1.0))
    names = tuple(map(str, meta.get("names", ())))
    replay = Replay(model, recorded.precision, names, amp_scale=scale if math.isfinite(scale) else 1.0)
    batch = replay.to_device(batch)
    gradients = recorded.backward
    culprit = diagnose(
        replay,
        batch,
        gradients_bad=gradients,
        around=Surroundings(composite=recorded.composite),
        cap=cap or Cap(seconds=600.0, evaluations=1000),
    )
    try:
        with activation_hooks(model) as hooks:
            outcome = replay.run(batch)
    except Exception as error:
        raise ValueError(f"the batch does not fit {weights}: {type(error).__name__}: {error}") from error
    layers = [s for s in hooks.forward_stats() if _STAGE.fullmatch(s.name) or (s.name and s.name == culprit.layer)]
    return Rerun(recorded, culprit, outcome, layers)


def layer_table(layers: list[ActivationStats]) -> str:
    """Return the layers as text, a line each."""
    rows = [("layer", "kind", "output", "largest", "finite")]
    rows += [(s.name, s.kind, s.dtype, f"{s.peak:.3g}", "yes" if s.finite else "NO") for s in layers]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _recorded(meta: dict[str, Any]) -> Diagnosis:
    try:
        return Diagnosis.from_record(meta.get("culprit", {}))
    except (ValueError, TypeError):
        return Diagnosis()
