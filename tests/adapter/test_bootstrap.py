"""What runs first in every Python process under ``gradsafe run``: it waits for a trainer, and is never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.arm import ROOT
from yolo_gradsafe.config import Config
from yolo_gradsafe.environment import OPTIONS, guarded_environment

BOOTSTRAP = ROOT / "yolo_gradsafe" / "adapter" / "bootstrap"
TRAINER = """
class BaseTrainer:
    def _do_train(self, world_size=1):
        \"\"\"Train.\"\"\"
        print("trained on", world_size)
        return "done"
"""


@pytest.fixture
def places(tmp_path: Path) -> Path:
    """A folder with packages that stand for Ultralytics, with a trainer that only says that it trains, and for ours."""
    for name, text in {
        "ultralytics/__init__.py": "",
        "ultralytics/engine/__init__.py": "",
        "ultralytics/engine/trainer.py": TRAINER,
        "yolo_gradsafe/__init__.py": "",
        "yolo_gradsafe/environment.py": "def guard_training(trainer): print('guarded', type(trainer).__name__)\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def python(code: str, *path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run code with the bootstrap and other folders in front of what is installed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), **env}
    command = [sys.executable, "-c", code]  # in a folder without packages, as Python looks there first
    return subprocess.run(command, cwd=BOOTSTRAP, env=env, capture_output=True, text=True, timeout=60)


TRAIN = "from ultralytics.engine import trainer; print(trainer.BaseTrainer()._do_train(world_size=2))"


def test_a_training_is_guarded_right_before_it_begins(places):
    done = python(TRAIN, BOOTSTRAP, places)
    assert done.stdout.splitlines() == ["guarded BaseTrainer", "trained on 2", "done"]
    assert done.stderr == ""


def test_the_source_of_the_loop_is_still_that_of_the_trainer(places):
    code = (
        "import inspect; from ultralytics.engine.trainer import BaseTrainer as B; print(inspect.getsource(B._do_train))"
    )
    assert "trained on" in python(code, BOOTSTRAP, places).stdout


def test_looking_for_the_module_does_not_load_or_lose_it(places):
    code = f"import importlib.util; importlib.util.find_spec('ultralytics.engine.trainer'); {TRAIN}"
    assert python(code, BOOTSTRAP, places).stdout.splitlines() == ["guarded BaseTrainer", "trained on 2", "done"]


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        ("def guard_training(trainer): raise ValueError('planted')", ["NOT GUARDED: ValueError: planted"]),
        ("raise ImportError('gone', name='yolo_gradsafe')", ["gone", "install yolo-gradsafe into the environment of"]),
    ],
)
def test_what_fails_is_said_and_the_training_is_stock(ours, words, places):
    (places / "yolo_gradsafe" / "environment.py").write_text(ours)
    done = python(TRAIN, BOOTSTRAP, places)
    assert done.stdout.splitlines() == ["trained on 2", "done"]
    assert all(word in done.stderr for word in words)
    assert len(done.stderr.splitlines()) == 1
    assert python(TRAIN, BOOTSTRAP, places, RANK="1").stderr == "", "one rank says so for all"


def test_a_trainer_of_another_make_is_left_alone(places):
    (places / "ultralytics" / "engine" / "trainer.py").write_text("BaseTrainer = None")
    done = python("from ultralytics.engine import trainer; print(trainer.BaseTrainer)", BOOTSTRAP, places)
    assert done.stdout == "None\n"
    assert "NOT GUARDED" in done.stderr


def test_a_process_without_ultralytics_imports_nothing_more():
    code = "import sys; print(*sorted(sys.modules))"
    with_it, without = (set(python(code, *path).stdout.split()) for path in ([BOOTSTRAP], []))
    assert with_it - without <= {"sitecustomize", "__future__"}


def test_a_sitecustomize_of_the_users_runs_as_well(places):
    (places / "sitecustomize.py").write_text("import sys; sys.path.append('/added'); print('mine'); HERE = 1")
    code = f"import sitecustomize, sys; print(sitecustomize.HERE, '/added' in sys.path); {TRAIN}"
    assert python(code, BOOTSTRAP, places).stdout.splitlines()[:3] == ["mine", "1 True", "guarded BaseTrainer"]


def test_a_sitecustomize_of_the_users_that_fails_is_told_as_ever(places):
    (places / "sitecustomize.py").write_text("import nothing_of_that_name")
    done = python(TRAIN, BOOTSTRAP, places)
    assert "nothing_of_that_name" in done.stderr
    assert done.stdout.splitlines()[0] == "guarded BaseTrainer"


def test_the_path_keeps_its_order_for_programs_that_hand_it_on(places):
    code = "import sys; print(sys.path[1:3])"
    assert python(code, BOOTSTRAP, places).stdout.strip() == str([str(BOOTSTRAP), str(places)])


def test_the_environment_puts_it_first_once_and_keeps_the_rest():
    config = Config.load(None, {"clip.stages": {"head": {"max_norm": 2}}, "clip.mode": "agc"})
    first = guarded_environment(config, {"PYTHONPATH": "/mine", "HOME": "/home"})
    assert first["PYTHONPATH"] == os.pathsep.join([str(BOOTSTRAP), "/mine"])
    assert first["HOME"] == "/home"
    again = guarded_environment(Config(), first)
    assert again["PYTHONPATH"] == first["PYTHONPATH"]
    assert again[OPTIONS] == "{}"
    assert guarded_environment(config, {"PYTHONPATH": ""})["PYTHONPATH"] == str(BOOTSTRAP)


def test_options_come_out_as_they_went_in():
    import json

    config = Config.load("rtdetr", {"clip.stages": {"head": {"max_norm": 2}}, "recovery.max_skips": 7})
    assert Config.load(json.loads(guarded_environment(config, {})[OPTIONS])) == config
