"""Where a parameter belongs."""

from __future__ import annotations

import pytest
import ultralytics

from tests.arm import DETECT
from yolo_gradsafe.gradients.layer_groups import Layout, locate

YOLO26 = Layout(backbone=11, layers=24, task="pose")


@pytest.mark.parametrize(
    ("name", "layer", "stage"),
    [
        ("model.0.conv.weight", "model.0", "backbone"),
        ("model.10.cv1.conv.weight", "model.10", "backbone"),
        ("model.11.conv.weight", "model.11", "neck"),
        ("model.22.cv1.conv.weight", "model.22", "neck"),
        ("model.23.cv2.0.0.conv.weight", "model.23.cv2", "head.box"),
        ("model.23.cv3.0.0.conv.weight", "model.23.cv3", "head.class"),
        ("model.23.cv4.0.0.conv.weight", "model.23.cv4", "head.keypoint"),
        ("model.23.cv4_sigma.0.weight", "model.23.cv4_sigma", "head.keypoint"),
        ("model.23.flow_model.s.0.weight", "model.23.flow_model", "head.flow"),
        ("model.23.one2one_cv2.0.0.conv.weight", "model.23.one2one_cv2", "head.one2one.box"),
        ("model.23.one2one_cv4_kpts.0.weight", "model.23.one2one_cv4_kpts", "head.one2one.keypoint"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_yolo(prefix, name, layer, stage):
    found = locate(prefix + name, YOLO26)
    assert (found.layer, found.stage) == (layer, stage)


@pytest.mark.parametrize(("task", "branch"), [("segment", "mask"), ("obb", "angle"), ("pose", "keypoint")])
def test_the_fourth_branch_is_what_the_task_predicts(task, branch):
    assert locate("model.23.cv4.0.weight", Layout(11, 24, task)).stage == f"head.{branch}"


def test_an_unknown_model_falls_back_to_its_top_level_modules():
    none = Layout(0, 0)
    assert locate("encoder.layer.3.weight", none).stage == "encoder"
    assert locate("model.3.conv.weight", none).stage == "model.3"
    assert locate("weight", none).stage == "weight"


@pytest.mark.parametrize(
    ("yaml", "branches"),
    [
        ("yolov8n.yaml", {"box", "class"}),
        ("yolo11n-seg.yaml", {"box", "class", "mask"}),
        ("yolo12n.yaml", {"box", "class"}),
        ("yolo26n-obb.yaml", {"box", "class", "angle", "one2one.box", "one2one.class", "one2one.angle"}),
        (
            "yolo26n-pose.yaml",
            {"box", "class", "keypoint", "flow", "one2one.box", "one2one.class", "one2one.keypoint"},
        ),
        ("rtdetr-resnet50.yaml", {"box", "class", "decoder"}),
    ],
)
def test_real_models_have_all_three_stages(yaml, branches):
    if "26" in yaml and "26" not in DETECT:
        pytest.skip("YOLO26 came with Ultralytics 8.4.0")
    model = (ultralytics.RTDETR if "rtdetr" in yaml else ultralytics.YOLO)(yaml)
    layout = Layout(len(model.model.yaml["backbone"]), len(model.model.model), model.task)
    stages = {locate(name, layout).stage for name, _ in model.model.named_parameters()}
    assert stages == {"backbone", "neck"} | {f"head.{branch}" for branch in branches}
