"""A second drawn detection set, unlike the package's own: small grey marks on stripes, told by their form alone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

__all__ = ["draw_marks"]

NAMES = ("disc", "ring", "cross", "bar")
TRIES = 30


def draw_marks(folder: Path, train: int = 48, val: int = 24, size: int = 96, seed: int = 0) -> Path:
    """Draw the set, once: two to six marks an image, none overlapping.

    Args:
        folder: Where it goes; taken as it is when it is there.
        train: Training images.
        val: Validation images.
        size: Image side, pixels.
        seed: Picks the images.

    Returns:
        Its ``data.yaml``.
    """
    data = folder / "data.yaml"
    if data.exists():
        return data
    for number, (split, count) in enumerate((("train", train), ("val", val))):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            image, rows = _scene(size, np.random.default_rng([seed, number, index]))
            cv2.imwrite(str(folder / "images" / split / f"{index:04d}.png"), image)
            (folder / "labels" / split / f"{index:04d}.txt").write_text("".join(rows))
    splits = {"path": str(folder.resolve()), "train": "images/train", "val": "images/val"}
    data.write_text(yaml.safe_dump({**splits, "names": dict(enumerate(NAMES))}))
    return data


def _scene(size: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[str]]:
    """Draw an image, (size, size, 3) BGR, and its label rows."""
    angle, width = rng.uniform(0, np.pi), rng.uniform(5, 14)
    y, x = np.mgrid[:size, :size]
    stripes = 120 + 40 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / width)
    grey = np.clip(stripes + rng.normal(0, 8, (size, size)), 0, 255).astype(np.uint8)
    taken, rows = np.zeros((size, size), bool), []
    for _ in range(rng.integers(2, 7)):
        for _ in range(TRIES):
            radius = int(rng.integers(size // 14, size // 7))
            cx, cy = rng.integers(radius + 1, size - radius - 1, 2)
            box = (slice(cy - radius - 1, cy + radius + 2), slice(cx - radius - 1, cx + radius + 2))
            if not taken[box].any():
                taken[box] = True
                rows.append(_mark(grey, int(rng.integers(len(NAMES))), (int(cx), int(cy)), radius, rng))
                break
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), rows


def _mark(grey: NDArray[np.uint8], kind: int, centre: tuple[int, int], radius: int, rng: np.random.Generator) -> str:
    """Draw a mark into an image and return its label row."""
    mask = np.zeros_like(grey)
    (x, y), thick = centre, max(2, radius // 3)
    if kind == 0:
        cv2.circle(mask, centre, radius, 255, -1)
    elif kind == 1:
        cv2.circle(mask, centre, radius - thick // 2, 255, thick)
    elif kind == 2:
        cv2.line(mask, (x - radius, y - radius), (x + radius, y + radius), 255, thick)
        cv2.line(mask, (x - radius, y + radius), (x + radius, y - radius), 255, thick)
    else:
        cv2.rectangle(mask, (x - radius, y - thick), (x + radius, y + thick), 255, -1)
    grey[mask > 0] = int(rng.choice([rng.integers(5, 45), rng.integers(215, 250)]))
    left, top, width, height = cv2.boundingRect(mask)
    size = len(grey)
    row = ((left + width / 2) / size, (top + height / 2) / size, width / size, height / size)
    return f"{kind} " + " ".join(f"{value:.6g}" for value in row) + "\n"
