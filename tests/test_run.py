"""``gradsafe run COMMAND...``: the command as it is, and every training in it guarded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.arm import DETECT, ROOT, own_settings
from yolo_gradsafe.cli.run import _wait, isolated

STILL = {name: 0 for name in ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr")}
"""Augmentation off, so that an image comes to the model as it is."""
SMALL = {"epochs": 1, "imgsz": 64, "batch": 4, "nbs": 4, "workers": 0, "device": "cpu", "plots": False, **STILL}


def environment(**env: str) -> dict[str, str]:
    # Under pytest and in GitHub's actions Ultralytics would put its runs beside its own tests.
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "GITHUB_", "RUNNER_", "GRADSAFE_"))}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    places = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)])
    return {**kept, "PYTHONPATH": places, "PATH": path, "COLUMNS": "200", "NO_COLOR": "1", **env}


def run(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "yolo_gradsafe", "run", *words]
    return subprocess.run(command, cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=500)


def incidents(run: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in (run / "stability" / "incidents.jsonl").read_text().splitlines()]


# The command as it is ----------------------------------------------------------------------------------------------


def test_arguments_folder_input_and_exit_code_are_the_commands(tmp_path):
    code = "import os, sys; print(os.getcwd(), sys.argv[1:], input()); sys.exit(7)"
    words = ["python", "-c", code, "--help", "-x", "--clip.max_norm=5", "a b"]
    done = subprocess.run(
        [sys.executable, "-m", "yolo_gradsafe", "run", *words],
        cwd=tmp_path, env=environment(), input="typed\n", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path} ['--help', '-x', '--clip.max_norm=5', 'a b'] typed\n"
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, -2)])
def test_a_signal_reaches_the_command(number, code, tmp_path):
    sleeper = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_DFL); print('up', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-m", "yolo_gradsafe", "run", "python", "-c", sleeper]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "up\n"
    process.send_signal(number)
    assert process.wait(30) == code


def test_a_pipe_that_closes_ends_the_command_as_ever(tmp_path):
    done = run("bash", "-c", "yes | head -1; echo ${PIPESTATUS[0]}", cwd=tmp_path)
    assert done.stdout.split() == ["y", "141"]
    assert done.stderr == ""


def test_where_a_program_cannot_be_replaced_it_is_waited_for():
    before = signal.getsignal(signal.SIGINT)
    assert _wait(["python", "-c", "import os; raise SystemExit(int(os.environ['CODE']))"], environment(CODE="9")) == 9
    assert signal.getsignal(signal.SIGINT) is before


# What is wrong is said before --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "the command is missing, e.g. gradsafe run yolo train"),
        (["--clip.max_nrom=5", "touch", "ran"], 2, "clip.max_nrom: unknown option"),
        (["--clip.max_norm=-5", "touch", "ran"], 2, "clip.max_norm: input should be greater than 0; got -5"),
        (["--clip.max_norm", "5", "touch", "ran"], 2, "expected --SECTION.OPTION=VALUE, e.g. --clip.max_norm=5"),
        (["--config", "detct", "touch", "ran"], 2, "Did you mean 'detect'?"),
        (["clip.max_norm=5", "touch", "ran"], 2, "as --clip.max_norm=5, before the command"),
        (["gradsafe", "train"], 2, "leave out 'run'"),
        (["train.py", "--epochs", "3"], 2, "Did you mean 'gradsafe run python train.py --epochs 3'?"),
        (["no-such-program"], 127, "cannot run no-such-program: No such file or directory"),
        (["./plain"], 126, "cannot run ./plain: Permission denied"),
    ],
)
def test_what_cannot_be_run_is_said_and_not_started(words, code, message, tmp_path):
    (tmp_path / "plain").write_text("")
    done = run(*words, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("python -I train.py", "'python -I'"),
        ("nice -n 5 /usr/bin/python3.11 -uE train.py", "'/usr/bin/python3.11 -uE'"),
        ("python -W ignore -S -m x", "'python -S'"),
        ("python -Im x", "'python -Im'"),
        ("python train.py -I", ""),
        ("python -c -I", ""),
        ("python -X dev -m x -E", ""),
        ("python -Werror -s -u train.py", ""),
        ("yolo train", ""),
    ],
)
def test_a_python_that_isolates_itself_is_seen(command, found):
    assert isolated(command.split()) == found


def test_of_an_isolated_python_it_is_said_that_it_is_not_guarded(tmp_path):
    done = run("python", "-I", "-c", "print('ran')", cwd=tmp_path)
    assert (done.stdout, done.returncode) == ("ran\n", 0)
    assert "THESE TRAININGS ARE NOT GUARDED" in done.stderr
    (tmp_path / "tool").write_text(f"#!{sys.executable} -E\nprint('ran')\n")
    (tmp_path / "tool").chmod(0o755)
    assert "NOT GUARDED" in run("./tool", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("words", "env", "norm"),
    [
        ([], {}, {}),
        ([], {"GRADSAFE_CONFIG": "mine.yaml"}, {"clip": {"max_norm": 3.0}}),
        (["--config", "other.yaml"], {"GRADSAFE_CONFIG": "mine.yaml"}, {"clip": {"max_norm": 4.0}}),
        (["--config=other.yaml", "--clip.max_norm=5"], {}, {"clip": {"max_norm": 5.0}}),
        (["--gradsafe.clip.max_norm=6"], {"GRADSAFE_CONFIG": ""}, {"clip": {"max_norm": 6.0}}),
    ],
)
def test_options_come_from_the_command_line_then_the_environment(words, env, norm, tmp_path):
    (tmp_path / "mine.yaml").write_text("clip: {max_norm: 3}")
    (tmp_path / "other.yaml").write_text("clip: {max_norm: 4}")
    done = run(*words, "python", "-c", "import os; print(os.environ['GRADSAFE_OPTIONS'])", cwd=tmp_path, **env)
    assert json.loads(done.stdout) == norm, done.stderr


# Real trainings ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(drawn, tmp_path_factory) -> Path:
    """A data YAML of which one image, as Ultralytics caches it, holds a NaN."""
    folder = shutil.copytree(drawn["detect"].parent, tmp_path_factory.mktemp("poisoned") / "set")
    text = (folder / "data.yaml").read_text()
    (folder / "data.yaml").write_text(text.replace(str(drawn["detect"].parent), str(folder)))
    image = np.full((64, 64, 3), 114, dtype=np.float32)
    image[0, 0, 0] = np.nan
    np.save(sorted((folder / "images" / "train").iterdir())[0].with_suffix(".npy"), image)
    return folder / "data.yaml"


@pytest.fixture
def settings(tmp_path) -> dict[str, str]:
    return {"YOLO_CONFIG_DIR": own_settings(tmp_path), "OMP_NUM_THREADS": "1"}


def test_the_yolo_command_trains_guarded(poisoned, tmp_path, settings):
    words = [
        f"{k}={v}" for k, v in {**SMALL, "model": DETECT, "data": poisoned, "project": tmp_path, "name": "a"}.items()
    ]
    done = run("--clip.max_norm=5", "yolo", "train", *words, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert incidents(tmp_path / "a") == ["bad_batch"]
    assert json.loads((tmp_path / "a" / "stability.json").read_text())["threshold"] == 5.0


SCRIPT = """
import sys
from ultralytics import YOLO
model = YOLO({model!r})
{before}
model.{call}(data={data!r}, project={project!r}, {more}**{settings})
print("left behind:", sum("GradSafe" in repr(fn) for fns in model.callbacks.values() for fn in fns))
"""


def script(folder: Path, data: Path, call: str = "train", before: str = "", more: str = "name='a', ") -> str:
    text = SCRIPT.format(
        model=DETECT, data=str(data), project=str(folder), call=call, before=before, more=more, settings=SMALL
    )
    (folder / "train.py").write_text(text)
    return "train.py"


def test_a_script_trains_guarded_and_its_model_is_as_before(poisoned, tmp_path, settings):
    done = run("python", script(tmp_path, poisoned), cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert incidents(tmp_path / "a") == ["bad_batch"]
    assert "left behind: 0" in done.stdout
    assert "differs from the versions" not in done.stdout + done.stderr, "the trainer is still known"


def test_a_guard_of_the_scripts_own_is_kept(drawn, tmp_path, settings):
    own = "from yolo_gradsafe import GradSafe; GradSafe(clip={'max_norm': 3.0}).attach(model)"
    name = script(tmp_path, drawn["detect"], before=own)
    done = run("--clip.max_norm=5", "python", name, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "a" / "stability.json").read_text())["threshold"] == 3.0
    assert "the second one does nothing" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_trainings_of_tune_are_guarded(poisoned, tmp_path, settings):
    more = "name='t', iterations=1, space={'lr0': (1e-5, 1e-2)}, "
    done = run("python", script(tmp_path, poisoned, "tune", more=more), cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = tmp_path.rglob("incidents.jsonl")
    assert incidents(found.parent.parent) == ["bad_batch"]


RAY = """
from ray import tune
from ultralytics import YOLO, settings

settings.update({{"raytune": True}})
space = {{"lr0": tune.grid_search([0.001, 0.002])}}
found = YOLO({model!r}).tune(
    use_ray=True, data={data!r}, space=space, search_alg="random", iterations=1, project={project!r}, **{arguments!r}
)
assert not found.errors, found.errors
seen = found.get_dataframe()
print("columns", sorted(name for name in seen if name.startswith("gradsafe/")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("ray"), reason="make trackers brings Ray Tune")
def test_the_trials_of_ray_tune_are_guarded_in_its_workers(poisoned, tmp_path, settings):
    arguments = {**SMALL, "epochs": 2}
    code = RAY.format(model=DETECT, data=str(poisoned), project=str(tmp_path), arguments=arguments)
    (tmp_path / "search.py").write_text(code)
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_V2_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    done = run("python", "search.py", cwd=tmp_path, **settings, **quiet)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = [path.parent.parent for path in tmp_path.rglob("incidents.jsonl")]
    assert len(found) == 2, "each trial has its guard"
    assert all("bad_batch" in incidents(path) for path in found)
    assert "'gradsafe/grad_norm'" in done.stdout, "and tells Ray"


@pytest.mark.slow
def test_both_ranks_of_torchrun_are_guarded(poisoned, tmp_path, settings):
    (tmp_path / "ranks.py").write_text(
        "import torch.distributed as dist\n"
        "from tests.runs.ddp import CpuTrainer\n"
        f"overrides = dict(model={DETECT!r}, data={str(poisoned)!r}, project={str(tmp_path)!r}, name='a', **{SMALL})\n"
        "trainer = CpuTrainer(overrides=overrides)\n"
        "trainer.train()\n"
        "print('guarded', type(vars(trainer).get('optimizer_step')).__name__, trainer.epoch)\n"
        "dist.destroy_process_group()\n"
    )
    torchrun = ["torchrun", "--standalone", "--nproc_per_node", "2", "ranks.py"]
    done = run("--config=detect", *torchrun, cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert incidents(tmp_path / "a") == ["bad_batch"]
    assert json.loads((tmp_path / "a" / "stability.json").read_text())["steps"]["skipped"] == 1


@pytest.mark.slow
def test_a_notebook_kernel_trains_guarded(poisoned, tmp_path, settings):
    import nbformat

    text = (tmp_path / script(tmp_path, poisoned)).read_text()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text)])
    nbformat.write(notebook, tmp_path / "train.ipynb")
    done = run("jupyter-execute", "train.ipynb", "--kernel_name", "python3", cwd=tmp_path, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert incidents(tmp_path / "a") == ["bad_batch"]
