"""The ``gradsafe`` command, as a user types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from tests.arm import DETECT, POSE, ROOT
from yolo_gradsafe.cli.train import _to_resume

TINY = ["epochs=1", "imgsz=64", "batch=4", "nbs=4", "device=cpu", "plots=False"]


def gradsafe(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yolo_gradsafe", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_train_then_report(drawn, tmp_path):
    done = gradsafe(
        "train", f"model={DETECT}", f"data={drawn['detect']}", *TINY, f"project={tmp_path}", "name=a",
        "gradsafe=detect", "gradsafe.clip.max_norm=5", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "a"
    summary = json.loads((run / "stability.json").read_text())
    assert summary["threshold"] == 5.0
    assert "stability summary" in done.stdout
    (run / "stability.json").unlink()
    again = gradsafe("report", str(run), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert summary["headline"] in again.stdout
    assert json.loads((run / "stability.json").read_text())["steps"] == summary["steps"]
    assert (run / "stability.png").is_file()


@pytest.mark.parametrize(
    ("words", "messages"),
    [
        (["modle=x.yaml"], ["'modle' is not a valid YOLO argument", "model"]),
        (["epochs=many"], ["epochs"]),
        (["epochs=1"], ["'model' is missing"]),
        ([f"model={DETECT}", "gradsafe=detct"], ["no such file or preset", "Did you mean 'detect'"]),
        ([f"model={DETECT}", "gradsafe.clip.max_nrom=5"], ["clip.max_nrom: unknown option", "Did you mean 'max_norm'"]),
        ([f"model={DETECT}", "gradsafe.clip.max_norm=-5"], ["clip.max_norm", "greater than 0", "-5"]),
        ([f"model={DETECT}", "gradsafe.clip.max_norm=five"], ["clip.max_norm", "valid number", "'five'"]),
        ([f"model={DETECT}", "gradsafe.clip"], ["expected gradsafe=PRESET_OR_FILE"]),
        ([f"model={DETECT}", "clip.max_norm=5"], ["an option of the guard: write gradsafe.clip.max_norm=5"]),
        ([f"model={DETECT}", "--max_norm=5"], ["an option of the guard: write gradsafe.max_norm=5"]),
        ([f"model={DETECT}", "preset=pose"], ["an option of the guard: write gradsafe=pose"]),
        (["cfg=nowhere.yaml"], ["nowhere.yaml"]),
        (["model=nope.pt", "data=coco8.yaml"], ["error: model=nope.pt cannot be loaded: ", "nope.pt"]),
        (
            ["model=nope.yaml", "data=coco8.yaml"],
            ["error: model=nope.yaml cannot be loaded: 'nope.yaml' does not exist"],
        ),
    ],
)
def test_what_is_wrong_is_said_before_training_with_exit_code_2(words, messages, tmp_path):
    done = gradsafe("train", *words, cwd=tmp_path)
    assert done.returncode == 2
    for message in messages:
        assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_how_to_resume(drawn, tmp_path):
    words = [f"model={DETECT}", f"data={drawn['detect']}", *TINY, "epochs=500", f"project={tmp_path}", "name=a"]
    process = subprocess.Popen(
        [sys.executable, "-m", "yolo_gradsafe", "train", *words],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        text=True,
    )  # fmt: skip
    last, end = tmp_path / "a" / "weights" / "last.pt", time.monotonic() + 200
    while not last.exists() and time.monotonic() < end:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=100)[1]
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == f"interrupted. To resume: gradsafe train model={last} resume=True"
    assert "Traceback" not in said


@pytest.mark.parametrize("saved", [True, False])
def test_what_there_is_to_resume_is_what_was_saved(saved, tmp_path):
    last = tmp_path / "my runs" / "last.pt"
    if saved:
        last.parent.mkdir()
        last.touch()
    told = _to_resume(SimpleNamespace(trainer=SimpleNamespace(last=last)))
    assert told == (
        f"To resume: gradsafe train model='{last}' resume=True"
        if saved
        else "No epoch was finished, so there is nothing to resume. Start the training again."
    )
    assert "nothing to resume" in _to_resume(SimpleNamespace(trainer=None))


def test_words_of_the_yolo_command_are_taken(drawn, tmp_path):
    (tmp_path / "my.yaml").write_text(
        f"model: {DETECT}\ndata: {drawn['detect']}\nepochs: 9\nmode: train\nsave_dir: x\n"
    )
    words = ["cfg=my.yaml", *TINY, f"project={tmp_path}", "name=a", "gradsafe.clip=autoclip", "gradsafe.max_norm=4"]
    done = gradsafe("detect", "train", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    arguments = yaml.safe_load((tmp_path / "a" / "args.yaml").read_text())
    assert (arguments["epochs"], arguments["task"]) == (1, "detect"), "the command line wins over the file"
    options = yaml.safe_load((tmp_path / "a" / "stability" / "options.yaml").read_text())
    assert (options["clip"]["mode"], options["clip"]["max_norm"]) == ("percentile", 4.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["model=x.yaml", "data=y.yaml"],
            "'model=x.yaml' is no command. To train: gradsafe train model=x.yaml data=y.yaml",
        ),
        (["pose", "model=x.yaml"], "'pose' is no command. To train: gradsafe train pose model=x.yaml"),
    ],
)
def test_what_yolo_takes_without_train_is_pointed_to_it(words, message, tmp_path):
    done = gradsafe(*words, cwd=tmp_path)
    assert (done.returncode, done.stderr.strip()) == (2, f"error: {message}")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("gradsafe re", {"replay", "report"}),
        ("gradsafe train gradsafe.clip.m", {"gradsafe.clip.mode=", "gradsafe.clip.max_norm="}),
        ("gradsafe config show res", {"rescue"}),
        ("gradsafe run --config po", {"pose"}),
    ],
)
def test_a_shell_completes(typed, words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['gradsafe']; from yolo_gradsafe.cli import main; main()"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_GRADSAFE_COMPLETE": "complete_bash",
            "COMP_WORDS": typed,
            "COMP_CWORD": str(typed.count(" ")),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split()) == words, done.stderr


def test_completion_can_be_installed(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    env["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"  # there may be no shell around the tests
    words = ["gradsafe", "--install-completion", "bash"]
    command = f"import sys; sys.argv = {words}; from yolo_gradsafe.cli import main; main()"
    subprocess.run([sys.executable, "-c", command], env=env, cwd=tmp_path, capture_output=True, check=True)
    assert "_GRADSAFE_COMPLETE" in (tmp_path / ".bash_completions" / "gradsafe.sh").read_text()
    assert "gradsafe.sh" in (tmp_path / ".bashrc").read_text()


def test_the_help_of_train_names_options_of_the_guard(tmp_path):
    said = " ".join(gradsafe("train", "--help", cwd=tmp_path).stdout.split())
    for word in (
        "gradsafe.clip.max_norm=5",
        "gradsafe.clip.mode=agc",
        "gradsafe config presets",
        "gradsafe config show",
    ):
        assert word in said


def test_a_training_that_fails_has_exit_code_1(tmp_path):
    done = gradsafe("train", f"model={DETECT}", "data=nowhere.yaml", *TINY, cwd=tmp_path)
    assert done.returncode == 1
    assert "nowhere.yaml" in done.stdout + done.stderr


def test_a_folder_without_records_cannot_be_reported(tmp_path):
    done = gradsafe("report", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr


@pytest.mark.slow
def test_probe(drawn, tmp_path):
    words = [
        f"model={DETECT}",
        f"data={drawn['detect']}",
        "imgsz=64",
        "batch=4",
        "nbs=4",
        "range_steps=20",
        "trial_steps=5",
    ]
    done = gradsafe("probe", *words, "optimizer=SGD", "--out", "found", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found" / "probe.json").read_text())
    assert (tmp_path / "found" / "probe.png").is_file()
    assert found["setup"]["optimizer"] == "SGD"
    fragment = done.stdout[done.stdout.index("# gradsafe probe") :]
    (tmp_path / "paste.yaml").write_text(fragment)
    assert gradsafe("config", "validate", "paste.yaml", cwd=tmp_path).returncode == 0
    assert gradsafe("probe", f"model={DETECT}", cwd=tmp_path).returncode == 2
    assert gradsafe("probe", *words, "imgzs=64", cwd=tmp_path).returncode == 2
    no_keypoints = gradsafe("probe", *words, f"model={POSE}", cwd=tmp_path)
    assert no_keypoints.returncode == 2
    assert no_keypoints.stderr.startswith("error: No `kpt_shape`")


def test_config_show_validate_schema(tmp_path):
    shown = gradsafe("config", "show", "rtdetr", "recovery.max_skips=3", cwd=tmp_path)
    options = yaml.safe_load(shown.stdout)
    assert (options["clip"]["max_norm"], options["recovery"]["max_skips"]) == (0.1, 3)
    (tmp_path / "mine.yaml").write_text(shown.stdout)
    assert gradsafe("config", "validate", "mine.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "mine.yaml").write_text("clip: {max_norm: -1}")
    wrong = gradsafe("config", "validate", "mine.yaml", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "mine.yaml" in wrong.stderr
    assert "clip.max_norm" in wrong.stderr
    schema = json.loads(gradsafe("config", "schema", cwd=tmp_path).stdout)
    assert "max_norm" in schema["$defs"]["ClipOptions"]["properties"]
    assert "rescue   For a run that died" in gradsafe("config", "presets", cwd=tmp_path).stdout
    assert gradsafe("config", "show", "gradsafe.max_norm=3", cwd=tmp_path).stdout.count("max_norm: 3.0") == 1


def test_help_is_light_and_reads_well(tmp_path):
    done = gradsafe("--help", cwd=tmp_path)
    assert done.returncode == 0
    for command in ("train", "probe", "demo", "report", "config"):
        assert command in done.stdout
    code = (
        "import sys, yolo_gradsafe.cli; assert not {'torch', 'ultralytics', 'polars', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_demo_knows_no_wrong_argument(tmp_path):
    done = gradsafe("demo", "lr=0.1", cwd=tmp_path)
    assert done.returncode == 2
    assert "'lr' is not a valid YOLO argument" in done.stderr
    assert not (tmp_path / "runs").exists()
    done = gradsafe("demo", "data=coco8.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "data=coco8.yaml: the demo sets this itself" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_demo_survives_its_faults(tmp_path):
    done = gradsafe("demo", "--folder", str(tmp_path / "demo"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    end = done.stdout[-6000:]
    assert end.count("Survived 1 incident") == 2
    for task in ("detect", "pose"):
        assert str(tmp_path / "demo" / task / "stability.png") in end
        assert (tmp_path / "demo" / task / "stability.png").is_file()
