"""A rule of the user's own."""

from __future__ import annotations

import csv
import os
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.arm import Arm
from tests.clipping.measured import STAGES, clipper, step
from yolo_gradsafe import clipping
from yolo_gradsafe.clipping import Clip, build, register
from yolo_gradsafe.clipping.modes import BUILT_IN
from yolo_gradsafe.clipping.registry import _BUILDERS
from yolo_gradsafe.config import Config, ConfigError

ROOT = Path(__file__).parent.parent.parent


@register("test_share")
class Share:
    """Scale every gradient to a share of itself."""

    def __init__(self, share: float = 0.5) -> None:
        self.share = share
        self.steps = 0

    def clip_(self, gradients, observation):
        self.steps += 1
        for tensor in gradients.tensors:
            tensor.mul_(self.share)
        return Clip(0.0, self.share)

    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def test_every_built_in_mode_has_a_builder():
    assert set(_BUILDERS) == set(BUILT_IN)
    for mode in BUILT_IN:
        assert step(clipper(STAGES, mode=mode), 1.0).scale > 0


def test_a_registered_rule_is_built_by_its_name():
    config = Config.load({"clip": {"mode": "test_share", "options": {"share": 0.25}}})
    assert step(build(config.clip), 8.0) == Clip(0.0, 0.25)
    assert Config.load({"clip": {"mode": "test_share"}}).clip.options == {}


def test_a_registered_rule_is_a_part_as_well():
    rule = clipper(STAGES, stages={"head": {"mode": "test_share", "options": {"share": 0.1}}})
    assert rule.parts["head"].share == 0.1
    main = clipper(STAGES, mode="test_share", options={"share": 0.1}, stages={"head": {"mode": "norm"}, "neck": {}})
    assert main.parts["neck"].share == 0.1


def test_it_travels_with_the_options():
    options = Config.load({"clip": {"mode": "test_share"}}).clip
    assert pickle.loads(pickle.dumps(options)).rule is Share


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        ({"mode": "test_shre"}, ["clip.mode", "'test_shre'", "'norm'", "Did you mean 'test_share'?"]),
        ({"mode": "test_share", "options": {"shar": 1}}, ["clip.options", "test_share", "share", "'shar'"]),
        ({"options": {"share": 1}}, ["clip.options", "registered", "'norm'"]),
        ({"stages": {"head": {"options": {"a": 1}}}}, ["clip.stages.head.options", "registered"]),
    ],
)
def test_wrong_use_is_an_error_by_name(clip, words):
    with pytest.raises(ConfigError) as error:
        Config.load({"clip": clip})
    for word in words:
        assert word in str(error.value)


def test_a_class_that_is_no_clipper_is_refused():
    with pytest.raises(TypeError, match=r"'test_half_done'.*HalfDone'> has no state_dict, load_state_dict$"):

        @register("test_half_done")
        class HalfDone:
            def clip_(self, gradients, observation): ...


def test_registering_a_name_again_replaces_the_class():
    class Again(Share):
        pass

    for rule in (Share, Again, Share):
        assert register("test_again")(rule) is rule
        assert Config.load({"clip": {"mode": "test_again"}}).clip.rule is rule


def test_public_names_are_found_when_they_are_asked_for():
    assert dir(clipping) == sorted(clipping.__all__)
    assert [getattr(clipping, name).__name__ for name in clipping.__all__] == clipping.__all__
    with pytest.raises(AttributeError, match=r"^module 'yolo_gradsafe.clipping' has no attribute 'clip'$"):
        _ = clipping.clip


def test_a_built_in_name_is_refused():
    with pytest.raises(ValueError, match="built in"):
        register("norm")


def test_the_options_do_not_import_torch():
    code = "import sys; from yolo_gradsafe.config import Config; Config.load(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_registered_rule_clips_a_training(drawn, tmp_path):
    script = tmp_path / "mine.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from ultralytics import YOLO
            from yolo_gradsafe import GradSafe
            from yolo_gradsafe.clipping import Clip, register

            @register("mine")
            class Mine:
                def __init__(self, share): self.share = share
                def clip_(self, gradients, observation):
                    for tensor in gradients.tensors: tensor.mul_(self.share)
                    return Clip(observation.norm * self.share, self.share)
                def state_dict(self): return {{}}
                def load_state_dict(self, state): pass

            guard = GradSafe(clip={{"mode": "mine", "options": {{"share": 0.25}}}})
            model = guard.attach(YOLO("yolo11n.yaml"))
            model.train(data={str(drawn["detect"])!r}, epochs=1, imgsz=64, batch=4, nbs=4, workers=0, device="cpu",
                        plots=False, project={str(tmp_path)!r}, name="train")
            """
        )
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with (tmp_path / "train" / "stability" / "steps.csv").open(newline="") as file:
        scales = [float(row["clip_scale"]) for row in csv.DictReader(file)]
    assert scales == [0.25, 0.25]


def test_every_rule_at_once_in_a_training(drawn, train):
    clip = {
        "mode": "auto",
        "warmup_steps": 2,
        "per_image": True,
        "stages": {
            "model.0.*": {"mode": "value"},
            "backbone": {"mode": "agc"},
            "neck": {"mode": "percentile"},
            "head.box": {"mode": "zscore"},
            "model.23.cv3.1.*": {"mode": "adagc"},
        },
    }
    result = train(Arm(str(drawn["detect"]), guard={"clip": clip}))
    assert result.error == ""
    assert result.incidents() == []
    assert len(result.steps) == 6
    assert result.not_finite == {"model": 0, "ema": 0, "optimizer": 0, "scaler": 0}
    assert any(0 < float(row["clip_scale"]) < 1 for row in result.steps)
