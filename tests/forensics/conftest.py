"""One trainer a model for all tests of the folder: to set one up takes longer than most tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.forensics.lab import Lab, build
from yolo_gradsafe.data import draw_detect, draw_pose


@pytest.fixture(scope="session")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Lab]:
    """Return the lab of a model; it is made at the first call."""
    folder: Path = tmp_path_factory.mktemp("labs")
    made: dict[str, Lab] = {}

    def lab(model: str, **arguments: object) -> Lab:
        key = f"{model} {arguments}"
        if key not in made:
            torch.set_num_threads(1)
            draw, name = (draw_pose, "pose") if "pose" in model else (draw_detect, "detect")
            made[key] = build(model, draw(folder / name, train=16, val=4, size=64), folder, **arguments)
        return made[key]

    return lab
