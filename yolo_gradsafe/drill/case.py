"""What is trained: a case of the matrix, the data and the size of the training, and one training of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_gradsafe.data import draw_detect, draw_pose
from yolo_gradsafe.drill.scenario import Scenario

__all__ = [
    "FULL",
    "QUICK",
    "REPORT",
    "RUN",
    "Arm",
    "Case",
    "Recipe",
    "clean_arm",
    "draw",
    "faulty_arm",
]

REPORT, RUN = "report.json", "train"
"""Names of an arm's report and of its run, in its folder."""
_MODELS = {"detect": "yolo26n.yaml", "pose": "yolo26n-pose.yaml"}
_RATES = {"SGD": 0.03, "AdamW": 0.002, "MuSGD": 0.01}
"""Learning rates with which each optimizer learns the drawn data in a few epochs."""


@dataclass(frozen=True)
class Recipe:
    """How large the trainings are."""

    images: int
    """Images to train on."""
    size: int
    """Their side in pixels."""
    epochs: int
    learns: bool
    """Whether it is long enough for an accuracy that means something."""
    model: str = ""
    """The user's own model; empty for a small one of the task."""
    data: str = ""
    """The user's own data set; empty for drawn data."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """The user's own training arguments."""


FULL = Recipe(images=64, size=128, epochs=10, learns=True)
"""160 steps: learns the drawn data. Some 30 s a training on one core."""
QUICK = Recipe(images=8, size=64, epochs=3, learns=False)
"""6 steps: shows what stays finite. Some 5 s a training on one core."""


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    fault: str
    task: str = "detect"
    precision: str = "fp32"
    optimizer: str = "AdamW"

    def __str__(self) -> str:
        """Name it, also as a folder."""
        return f"{self.fault}-{self.task}-{self.precision}-{self.optimizer}"


@dataclass
class Arm:
    """One training, as JSON."""

    folder: str
    """Where its run goes; the run is ``train`` in it."""
    task: str
    precision: str
    model: str
    images: int
    size: int
    data: str = ""
    """The user's own data set; empty for drawn data."""
    drawn: str = ""
    """Folder of the drawn data."""
    fault: str = ""
    """Scenario to inject; empty for none."""
    guarded: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the guard."""
    seed: int = 0
    """Seed of the fault; that of the training is among the arguments."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Ultralytics' training arguments."""


def clean_arm(case: Case, scenario: Scenario, recipe: Recipe, out: Path, seed: int) -> Arm:
    """Return the training without a fault and without the guard that a case is compared to."""
    model, own = _model(case, scenario, recipe), _needed(scenario, recipe)
    special = "".join(f"-{key}{value}" for key, value in own.items())
    folder = out / f"clean-{Path(model).stem}-{case.precision}-{case.optimizer}{special}-seed{seed}"
    return _arm(case, scenario, recipe, out, folder, {"seed": seed})


def faulty_arm(
    case: Case, scenario: Scenario, recipe: Recipe, out: Path, guarded: bool, options: dict[str, Any] | None = None
) -> Arm:
    """Return a case's training, stock or guarded."""
    folder = out / str(case) / ("guarded" if guarded else "stock")
    arm = _arm(case, scenario, recipe, out, folder, {**scenario.wrong, "seed": 0})
    arm.fault, arm.guarded, arm.options = scenario.name if scenario.make else "", guarded, options or {}
    return arm


def draw(arm: Arm) -> Path:
    """Draw the data of an arm that has none of its own, or find it drawn, and return its ``data.yaml``."""
    make = draw_pose if arm.task == "pose" else draw_detect
    return make(Path(arm.drawn), train=arm.images, val=max(4, arm.images // 4), size=arm.size)


def _model(case: Case, scenario: Scenario, recipe: Recipe) -> str:
    return recipe.model or scenario.model or _MODELS[case.task]


def _needed(scenario: Scenario, recipe: Recipe) -> dict[str, Any]:
    """Return the arguments that a scenario needs; a run that is too short to learn stays short."""
    return {key: value for key, value in scenario.arguments.items() if recipe.learns or key != "epochs"}


def _arm(case: Case, scenario: Scenario, recipe: Recipe, out: Path, folder: Path, last: dict[str, Any]) -> Arm:
    arguments = {
        "epochs": recipe.epochs,
        "imgsz": recipe.size,
        "batch": 4,
        "nbs": 4,  # step after every batch: a small set has few of them
        "warmup_epochs": 1,
        "optimizer": case.optimizer,
        "lr0": _RATES[case.optimizer],
        "device": "cpu",
        "workers": 0,
        "plots": False,
        "verbose": False,
        "exist_ok": True,
        **({} if recipe.model else {"pretrained": False}),
        **recipe.arguments,
        **_needed(scenario, recipe),
        **last,
    }
    return Arm(
        folder=str(folder),
        task=case.task,
        precision=case.precision,
        model=_model(case, scenario, recipe),
        images=recipe.images,
        size=recipe.size,
        data=recipe.data,
        drawn="" if recipe.data else str(out / "data" / f"{case.task}-{recipe.images}-{recipe.size}"),
        seed=0,
        arguments=arguments,
    )
