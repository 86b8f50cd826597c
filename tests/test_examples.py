"""Every example runs as it stands, in an empty folder."""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.arm import ROOT, own_settings

FOLDER = ROOT / "examples"
ENDS = {
    "compare": r"gradsafe.clip.mode\tnorm\tauto\n[^$]*compare.html$",
    "detect": r"median norm [\d.]+, clipped \d+%",
    "loggers": r"(?:Healthy|Too early to tell): 32 steps[^$]*tensorboard --logdir .*\nmlflow ui ",
    "own_clipper": r"The last threshold was [\d.]+",
    "own_trainer": r"Survived 1 incident: 1 of 32 steps was skipped[^\n]*\noptimizer_step was called 31 times for 32",
    "pose": r"(?:Healthy|Too early to tell): 32 steps",
    "rtdetr": r"(?:Healthy|Too early to tell): 4 steps[^$]*threshold 0.1, median norm",
    "survive_nan": r"guarded: Survived 1 incident: 1 of 32 steps was skipped",
    "torchrun": r"(?:Healthy|Too early to tell): 8 steps",
}
"""What each script prints at its end."""
LAUNCHED = {"torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]}
"""Those that another program starts."""
NEEDS = {"loggers": ("mlflow", "tensorboard")}


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a user: settings of their own, and no sign of a test, which turns loggers off."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "PYTHONPATH": str(ROOT), "YOLO_CONFIG_DIR": own_settings(folder)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_example(name, tmp_path):
    for package in NEEDS.get(name, ()):
        if not find_spec(package):
            pytest.skip(f"the dev extra brings {package}")
    words, env = [sys.executable, *LAUNCHED.get(name, []), str(FOLDER / f"{name}.py")], environment(tmp_path)
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(ENDS[name], done.stdout.strip()), done.stdout[-800:]
    assert "internal error" not in done.stdout + done.stderr
    if name == "loggers":
        assert [*tmp_path.glob("runs/detect/train/events.*")]
        assert [*tmp_path.glob("runs/examples/mlruns/*/*/metrics/gradsafe_steps/grad_norm")]


@pytest.mark.slow
def test_the_notebook_runs_and_still_says_what_it_shows(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="the dev extra brings nbformat")
    client = pytest.importorskip("nbclient", reason="the dev extra brings nbclient")
    stored = nbformat.read(FOLDER / "tour.ipynb", as_version=4)
    fresh = copy.deepcopy(stored)
    env = environment(tmp_path)
    for name in set(os.environ) - set(env):
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    client.NotebookClient(fresh, timeout=500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert printed(fresh) == printed(stored)
    assert "Survived 1 incident: 1 of 128 steps was skipped; mAP50 N." in printed(stored)
    shown = [output.get("data", {}) for cell in fresh.cells for output in cell.get("outputs", ())]
    assert any("image/png" in data for data in shown)


def printed(notebook) -> str:
    """Return what a notebook's cells print, but for numbers, which depend on the machine in their last digits."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(
        output.text for output in outputs if output.get("name") == "stdout" and "GradSafe" not in output.text
    )
    return re.sub(r"\b(median|p95|largest|mAP50) \d+(\.\d+)?", r"\1 N", text)


def test_every_example_is_listed_and_run():
    files = sorted(path.name for path in FOLDER.iterdir() if path.suffix in {".py", ".ipynb"})
    assert sorted(re.findall(r"`(\w+\.\w+)` \|", (FOLDER / "README.md").read_text())) == files
    assert {name.partition(".")[0] for name in files} - {"tour"} == set(ENDS)
