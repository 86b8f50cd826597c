"""Small COCO-style data sets of coloured shapes, drawn on the spot, so that a real training needs no download.

Both sets use the layout that Ultralytics reads: `images/{train,val}/*.jpg`, `labels/{train,val}/*.txt`, `data.yaml`.
A label row is `class x y w h`, and for pose four times `x y v` after it. Coordinates are shares of the image side in
[0, 1]; `x y` of a box is its centre; `v` is COCO's visibility: 2 for a corner that is seen, 0 (with `x y` 0) for one
that is covered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]

DATA = "data.yaml"
OURS = "# Drawn by yolo_gradsafe.data.shapes"
MIN_SIZE = 32
# No chroma subsampling: a colour ends where the box does.
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)


@dataclass(frozen=True)
class Shape:
    """One class.

    Attributes:
        name: The class name.
        colour: BGR, 0 to 255.
        corners: The outline, (N, 2) x and y, inside the unit circle.
        tilt: The largest turn to either side, in degrees.
    """

    name: str
    colour: tuple[int, int, int]
    corners: Points
    tilt: float


def _polygon(sides: int, start: float) -> Points:
    """Return the corners (sides, 2) of a regular polygon on the unit circle; `start` is the first angle in degrees."""
    angle = np.radians(start) + np.arange(sides) * 2 * np.pi / sides
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


DETECT = (
    Shape("circle", (45, 45, 215), _polygon(48, 0), 0),
    Shape("square", (45, 200, 45), _polygon(4, 45), 15),
    Shape("triangle", (215, 60, 45), _polygon(3, -90), 15),
)
# Top, right, bottom, left: wide above, long below, so that each corner can be told from the others.
POSE = (Shape("kite", (40, 190, 230), np.array([[0.0, -0.6], [0.75, -0.2], [0.0, 1.0], [-0.75, -0.2]]), 20),)
POSE_KEYS: dict[str, Any] = {"kpt_shape": [4, 3], "flip_idx": [0, 3, 2, 1]}


def draw_detect(folder: Path, train: int = 32, val: int = 16, size: int = 128, seed: int = 0) -> Path:
    """Draw a detection set: circles, squares and triangles, one to three an image, none overlapping.

    The same arguments draw the same files. A folder that already holds the set is left as it is, so Ultralytics' label
    cache stays valid; a folder that holds another set of this module's is replaced as a whole.

    Args:
        folder: Where the set goes; made if it is missing.
        train: Number of training images, at least 1.
        val: Number of validation images, at least 1.
        size: Image side in pixels, at least 32.
        seed: Picks the images; not negative.

    Returns:
        The path of `data.yaml`, whose `path` is absolute.

    Raises:
        ValueError: A number is out of its range.
        FileExistsError: `folder` holds something that this module did not draw.
    """
    return _draw(folder, DETECT, {}, {"train": train, "val": val}, size, seed)


def draw_pose(folder: Path, train: int = 32, val: int = 16, size: int = 128, seed: int = 0) -> Path:
    """Draw a pose set: kites, one to three an image, whose four corners are keypoints (top, right, bottom, left).

    One kite in six has a covered corner: `v` is 0 there, and the box still spans the whole kite.

    Args:
        folder: Where the set goes; treated as `draw_detect` does.
        train: Number of training images, at least 1.
        val: Number of validation images, at least 1.
        size: Image side in pixels, at least 32.
        seed: Picks the images; not negative.

    Returns:
        The path of `data.yaml`, with an absolute `path`, `kpt_shape: [4, 3]` and `flip_idx`.

    Raises:
        ValueError: A number is out of its range.
        FileExistsError: `folder` holds something that this module did not draw.
    """
    return _draw(folder, POSE, POSE_KEYS, {"train": train, "val": val}, size, seed)


def _draw(
    folder: Path, shapes: tuple[Shape, ...], keys: dict[str, Any], counts: dict[str, int], size: int, seed: int
) -> Path:
    """Make `folder` hold the set: `counts` images a split; `keys` go into `data.yaml` and are empty but for pose."""
    if min(counts.values()) < 1 or size < MIN_SIZE or seed < 0:
        raise ValueError(f"wanted at least 1 image a split, size {MIN_SIZE}, seed 0; got {counts}, {size}, {seed}")
    folder = Path(folder).resolve()
    splits = {split: f"images/{split}" for split in counts}
    names = {i: shape.name for i, shape in enumerate(shapes)}
    content = yaml.safe_dump({"path": str(folder), **splits, "names": names, **keys}, sort_keys=False)
    text = f"{OURS}: {counts}, size {size}, seed {seed}\n{content}"
    if _holds(folder, text, counts):
        return folder / DATA
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Drawn aside and renamed, so that no reader ever finds half a set.
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as room:
        fresh = Path(room, "fresh")
        for k, (split, count) in enumerate(counts.items()):
            for kind in ("images", "labels"):
                (fresh / kind / split).mkdir(parents=True)
            for i in range(count):
                # A generator of its own an image: its pixels do not depend on how many others are drawn.
                image, label = _scene(shapes, bool(keys), size, i, np.random.default_rng([seed, k, i]))
                jpeg = cv2.imencode(".jpg", image, JPEG)[1].tobytes()  # cv2.imwrite fails on some Windows paths
                (fresh / "images" / split / f"{i:04d}.jpg").write_bytes(jpeg)
                (fresh / "labels" / split / f"{i:04d}.txt").write_text(label, encoding="utf-8")
        (fresh / DATA).write_text(text, encoding="utf-8")
        try:
            if folder.exists():
                _check_ours(folder)
                folder.replace(Path(room, "old"))
            fresh.replace(folder)
        except OSError:
            if not _holds(folder, text, counts):  # else another process drew the same set meanwhile
                raise
    return folder / DATA


def _holds(folder: Path, text: str, counts: dict[str, int]) -> bool:
    """Tell whether `folder` holds the set whose `data.yaml` reads `text`, with every file in its place."""
    data = folder / DATA
    return (
        data.is_file()
        and data.read_text(encoding="utf-8", errors="replace") == text
        and all(
            (folder / kind / split / f"{i:04d}.{suffix}").is_file()
            for kind, suffix in (("images", "jpg"), ("labels", "txt"))
            for split, count in counts.items()
            for i in range(count)
        )
    )


def _check_ours(folder: Path) -> None:
    """Raise FileExistsError if `folder` holds anything but a set that this module drew."""
    found = {path.name for path in folder.iterdir()}
    ours = DATA in found and (folder / DATA).read_text(encoding="utf-8", errors="replace").startswith(OURS)
    if found and not (ours and found <= {DATA, "images", "labels"}):
        raise FileExistsError(f"{folder} holds files that were not drawn here; choose another folder")


def _scene(shapes: tuple[Shape, ...], pose: bool, size: int, index: int, rng: np.random.Generator) -> tuple[Image, str]:
    """Draw image `index` (size, size, 3) BGR and its label file: 1 to 3 objects, each in a quarter of its own."""
    # Grey blotches and grain, with next to no colour.
    blotches = cv2.resize(rng.uniform(60, 190, (6, 6)), (size, size), interpolation=cv2.INTER_CUBIC)
    grey = blotches + rng.normal(0, 12, (size, size))
    image = np.clip(grey[..., None] + rng.uniform(-8, 8, 3), 0, 255).astype(np.uint8)
    rows = []
    for k, quarter in enumerate(rng.permutation(4)[: rng.integers(1, 4)]):
        label = (index + k) % len(shapes)  # in turn, so that even a tiny set has every class
        radius = rng.uniform(0.26, 0.46) * size / 2
        centre = np.array([quarter % 2, quarter // 2]) * size / 2 + rng.uniform(radius + 1, size / 2 - radius - 1, 2)
        turn = np.radians(rng.uniform(-shapes[label].tilt, shapes[label].tilt))
        spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        corners = np.rint(centre + radius * shapes[label].corners @ spin).astype(np.int32)
        mask = cv2.fillPoly(np.zeros((size, size), np.uint8), [corners], 1)
        image[mask > 0] = np.clip(np.add(shapes[label].colour, rng.integers(-25, 26, 3)), 0, 255)
        x, y, w, h = cv2.boundingRect(mask)
        row = [(x + w / 2) / size, (y + h / 2) / size, w / size, h / size]
        if pose:
            seen = np.full((len(corners), 1), 2)
            if rng.random() < 1 / 6:
                covered = rng.integers(len(corners))
                seen[covered] = 0
                cv2.circle(image, corners[covered].tolist(), round(radius / 4), (110, 110, 110), -1)
            # The middle of a corner's pixel, as the box spans whole pixels.
            row += np.where(seen > 0, np.hstack([(corners + 0.5) / size, seen]), 0).ravel().tolist()
        rows.append(" ".join([str(label), *(f"{value:.6g}" for value in row)]) + "\n")
    return image, "".join(rows)
