"""A trainer class that brings the guard along, into other processes too."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from importlib.util import find_spec

import pytest
import ultralytics
from ultralytics.models.yolo.detect import DetectionTrainer

from tests.arm import BASE, DETECT, ROOT
from yolo_gradsafe import GradSafe
from yolo_gradsafe.trainers import VARIABLE

CARRIED = tuple(map(int, ultralytics.__version__.split(".")[:3])) >= (8, 4, 140)
"""Whether this Ultralytics ships callbacks to its workers, for which it needs cloudpickle."""


class OwnGuard(GradSafe):
    """A user's own kind of guard."""


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.setenv(VARIABLE, "{}")


def elsewhere(code: str) -> str:
    """Run code in a process that this one starts."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def test_it_is_the_trainer_with_this_very_guard(drawn, tmp_path):
    guard = GradSafe(report={"plot": False})
    model = ultralytics.YOLO(DETECT)
    settings = {**BASE, "data": str(drawn["detect"]), "project": str(tmp_path), "epochs": 1}
    model.train(trainer=guard.trainer(DetectionTrainer), **settings)
    assert guard.summary.headline == "Too early to tell: 2 steps, none skipped; mAP50 0."
    assert not any("GradSafe" in repr(fn) for fns in model.callbacks.values() for fn in fns), "for this training alone"


def test_another_process_finds_it_by_module_and_name():
    made = GradSafe(clip={"mode": "zscore", "zscore": {"z": 3.5}}).trainer(DetectionTrainer)
    assert issubclass(made, DetectionTrainer)
    code = f"from {made.__module__} import {made.__name__} as t; import json"
    found = elsewhere(f"{code}; print(json.dumps([t.__mro__[2].__name__, t.gradsafe_guard.config.clip.zscore.z]))")
    assert json.loads(found) == ["DetectionTrainer", 3.5]


def test_another_process_makes_the_same_kind_of_guard():
    made = OwnGuard().trainer(DetectionTrainer)
    assert elsewhere(f"from {made.__module__} import {made.__name__} as t; print(type(t.gradsafe_guard).__name__)") == (
        "OwnGuard"
    )


def test_a_guard_of_the_script_itself_is_made_there():
    class Local(GradSafe):
        """Nobody can import it."""

    assert Local().trainer(DetectionTrainer).__module__ == "__main__"


def test_it_goes_by_reference_where_classes_are_pickled():
    made = GradSafe(clip={"max_norm": 3.0}).trainer(DetectionTrainer)
    text = pickle.dumps(made).hex()
    code = f"import pickle; print(pickle.loads(bytes.fromhex('{text}')).gradsafe_guard.config.clip.max_norm)"
    assert elsewhere(code) == "3.0"


def test_other_options_are_another_class_and_the_same_are_the_same():
    one, other = GradSafe(), GradSafe(clip={"max_norm": 3.0})
    names = [guard.trainer(DetectionTrainer).__name__ for guard in (one, other, one)]
    assert names[0] == names[2] != names[1]


def test_a_class_of_the_script_itself_is_made_there():
    class Own(DetectionTrainer):
        """Nobody can import it."""

    assert GradSafe().trainer(Own).__module__ == "__main__"


@pytest.mark.parametrize("wrong", [ultralytics.YOLO, "DetectionTrainer", None])
def test_only_a_trainer_class_will_do(wrong):
    with pytest.raises(TypeError, match="trainer class of Ultralytics, such as DetectionTrainer"):
        GradSafe().trainer(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("route", ["trainer", "callbacks", "run"])
def test_workers_that_ultralytics_starts_are_guarded_or_the_user_is_told(route, drawn, tmp_path):
    if CARRIED and not find_spec("cloudpickle"):
        pytest.skip("Ultralytics ships its workers' state with cloudpickle")
    command = [sys.executable, "-m", "tests.runs.worker_file", str(drawn["detect"]), str(tmp_path), route]
    if route == "run":
        command = [sys.executable, "-m", "yolo_gradsafe", "run", "--clip.max_norm=7.5", *command]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    options = tmp_path / "train" / "stability" / "options.yaml"
    if route in {"trainer", "run"} or CARRIED:
        assert "\n  max_norm: 7.5" in options.read_text()
        assert len((options.parent / "steps.csv").read_text().splitlines()) == 3
        assert "NOT GUARDED" not in done.stdout + done.stderr
    else:
        assert not options.exists()
        said = done.stdout + done.stderr
        assert "THIS TRAINING IS NOT GUARDED" in said
        assert "guard.trainer(CpuTrainer)" in said
