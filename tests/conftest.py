"""Settings for every test: offline, a private Ultralytics folder, one thread a process, and data to train on."""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="gradsafe-yolo-"))
os.environ.setdefault("YOLO_OFFLINE", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from filelock import FileLock

from tests.arm import Arm, Result, run_arm

if TYPE_CHECKING:
    from tests.fake_cuda import FakeCuda

ROOT = Path(__file__).parent.parent
_T = TypeVar("_T")


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], _T]], _T]:
    """Make what takes minutes once for all workers: given its name, and what makes it in a folder."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name: str, make: Callable[[Path], _T]) -> _T:
        kept = shared / f"{name}.pickle"
        with FileLock(f"{kept}.lock"):
            if not kept.exists():
                (shared / name).mkdir(exist_ok=True)
                made = make(shared / name)
                kept.write_bytes(pickle.dumps(made))
            return pickle.loads(kept.read_bytes())

    return get


@pytest.fixture(scope="session")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the real COCO images, because Ultralytics writes beside them; without them its tests are skipped."""
    folder = Path(os.environ.get("GRADSAFE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}; set GRADSAFE_DATA")
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("coco") / "data"))


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny drawn data sets by task: 8 images of 64 pixels to train on."""
    from yolo_gradsafe.data.shapes import draw_detect, draw_pose

    folder = tmp_path_factory.mktemp("drawn")
    return {
        "detect": draw_detect(folder / "detect", train=8, val=4, size=64),
        "pose": draw_pose(folder / "pose", train=8, val=4, size=64),
    }


@pytest.fixture
def device() -> Iterator[FakeCuda]:
    """A simulated GPU that is in use for the length of a test."""
    from tests.fake_cuda import FakeCuda

    with FakeCuda() as cuda:
        yield cuda


@pytest.fixture
def train(tmp_path: Path):
    """Train an arm in a fresh process and return what became of it."""

    def run(arm: Arm, name: str = "run") -> Result:
        return run_arm(arm, tmp_path / name)

    return run
