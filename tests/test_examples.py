"""Every example and every Python block of the README runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.arm import DETECT, ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
ENDS = {
    "detect": r"median norm [\d.]+, clipped \d+%",
    "pose": r"Healthy: 32 steps",
    "survive_nan": r"guarded: Survived 1 incident: 1 of 32 steps was skipped",
    "own_clipper": r"The last threshold was [\d.]+",
}


def run(path_or_code: list[str], cwd) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *path_or_code], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example(script, tmp_path):
    output = run([str(script)], tmp_path)
    assert re.search(ENDS[script.stem], output), output[-500:]
    assert not list(tmp_path.rglob("*internal error*"))


def test_every_example_is_listed():
    listed = re.findall(r"`(\w+)\.py` \|", (ROOT / "examples" / "README.md").read_text())
    assert sorted(listed) == [path.stem for path in EXAMPLES] == sorted(ENDS)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_readme_block(number, drawn, tmp_path):
    output = run(
        ["-c", BLOCKS[number].replace("coco8.yaml", str(drawn["detect"])).replace("yolo26n.yaml", DETECT)], tmp_path
    )
    if "headline" in BLOCKS[number]:
        assert "Healthy:" in output
