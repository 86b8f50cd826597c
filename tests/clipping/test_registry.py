"""How rules are found: the built-in ones by their files, the user's own by registration."""

from __future__ import annotations

import csv
import os
import pickle
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.arm import Arm
from tests.clipping.measured import STAGES, clipper, step
from yolo_gradsafe import clipping
from yolo_gradsafe.clipping import Clip, build, register, rules
from yolo_gradsafe.clipping.registry import RuleSection, built_in, mode_names
from yolo_gradsafe.clipping.rules import BUILT_IN
from yolo_gradsafe.config import Config
from yolo_gradsafe.config_errors import ConfigError

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
    for rule in BUILT_IN:
        assert step(clipper(STAGES, mode=rule.mode), 1.0).scale > 0


def test_a_built_in_rule_is_one_file_of_its_name():
    files = {path.stem for path in Path(rules.__file__).parent.glob("*.py")} - {"__init__"}
    assert {rule.mode for rule in BUILT_IN} == files
    for rule in BUILT_IN:
        built = rule.section().build(Config().clip, STAGES)
        parts = {type(part).__module__ for part in (built, getattr(built, "baseline", built))}
        assert rule.section.__module__ == f"{rules.__name__}.{rule.mode}"
        assert rule.section.__module__ in parts


def test_the_order_of_the_rules_is_that_of_the_options():
    modes = [rule.mode for rule in BUILT_IN]
    assert modes == ["norm", "value", "agc", "percentile", "zscore", "adagc", "auto", "none"]
    assert mode_names()[: len(modes)] == modes
    sections = [name for name in Config().clip.model_dump() if name in modes]
    assert sections == ["value", "agc", "percentile", "zscore", "adagc", "auto"]


def test_two_files_of_one_mode_are_refused():
    with pytest.raises(ValueError, match=r"^clip mode 'agc' is in yolo_gradsafe\.clipping\.rules\.agc already$"):

        @built_in("agc", "another one")
        class Other(RuleSection):
            """Another one."""


def test_the_rule_of_the_contributing_guide_works_when_its_file_is_put_in_place(tmp_path):
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"\(`rules/tensor\.py`\):\n\n  ```python\n(.*?)\n  ```", guide, re.DOTALL)
    package = tmp_path / "yolo_gradsafe"
    shutil.copytree(ROOT / "yolo_gradsafe", package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "clipping" / "rules" / "tensor.py").write_text(textwrap.dedent(code))
    script = """
        import sys
        from yolo_gradsafe.config import Config
        config = Config.load({"clip": {"mode": "tensor", "tensor": {"limit": 2.0}}})
        assert "torch" not in sys.modules
        text = config.to_yaml()
        assert "  # Mode tensor: each tensor by its own norm\\n  tensor:\\n" in text
        assert text.index("  auto:") < text.index("  tensor:") < text.index("  options:")
        assert "log norms), tensor (each tensor by its own norm), none (measure only)" in " ".join(
            line.strip("# ") for line in text.splitlines()
        )

        import torch
        from yolo_gradsafe.clipping import Observation, build
        from yolo_gradsafe.gradients.norms import GradientMeter
        parameters = [(name, torch.nn.Parameter(torch.zeros(2))) for name in "ab"]
        for (_, parameter), grad in zip(parameters, ([3.0, 4.0], [1.0, 0.0])):
            parameter.grad = torch.tensor(grad)
        gradients, reading = GradientMeter(parameters).measure([])
        clip = build(config.clip).clip_(gradients, Observation(reading.norm, reading.tensor_norms, 1))
        assert torch.allclose(parameters[0][1].grad, torch.tensor([1.2, 1.6]))
        assert parameters[1][1].grad.tolist() == [1.0, 0.0]
        assert abs(clip.scale - (5 / 26) ** 0.5) < 1e-6
    """
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]


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
