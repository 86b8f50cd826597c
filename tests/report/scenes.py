"""Whole runs as a user may have them: healthy, sick, crashed, empty, from the future, very long."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from tests.report.runs import INFO, NAN, bad, clipped, incident, overflow, row, write
from yolo_gradsafe.telemetry import Incident, Recorder, RunPaths, StepRow
from yolo_gradsafe.telemetry.schema import LayerRow

HOSTILE = "<img src=x onerror=\"document.title='owned'\">'\"&.jpg"
"""A file name that runs if it is not escaped."""
STAGES = {"backbone": 0.8, "neck": 0.4, "head.box": 0.3, "head.class": 0.2}
LAYERS = [f"model.{n}" for n in range(10)] + ["model.23.cv2", "model.23.cv3"]
INCIDENTS = 40
SICK_STEPS = 2000


def staged(step: StepRow) -> StepRow:
    """Return a step with the norms of its stages."""
    return replace(step, stages={f"norm/{name}": step.grad_norm * share for name, share in STAGES.items()})


def results(fitness: list[float], train: list[float] | None = None, validation: list[float] | None = None) -> str:
    """Return a ``results.csv`` with an accuracy for each epoch, and losses that fall unless others are given."""
    train = train or [4 * 0.9**n for n in range(len(fitness))]
    rows = zip(fitness, train, validation or train, strict=True)
    head = "epoch,time,train/box_loss,train/cls_loss,metrics/mAP50(B),metrics/mAP50-95(B),val/box_loss,val/cls_loss"
    lines = [f"{n},{n},{t},{t},{1.5 * f:.6g},{f},{v},{v}" for n, (f, t, v) in enumerate(rows, 1)]
    return "\n".join([head, *lines]) + "\n"


def layers(run: Path, epochs: int, names: list[str] = LAYERS, dying: str = "") -> None:
    """Record layers whose norms differ by orders of magnitude; one may have none from half-way on."""
    recorder = Recorder(run).start(resume=True)
    noise = random.Random(0)
    for epoch in range(1, epochs + 1):
        rows = []
        for number, name in enumerate(names):
            norm = 10 ** (1 - number / 3 + noise.uniform(-0.2, 0.2)) * (
                0 if name == dying and epoch > epochs / 2 else 1
            )
            stage = "head.box" if "23" in name else "backbone"
            rows.append(LayerRow(epoch, name, stage, 10, norm / 2, norm, norm * 2, norm * 4, 0.1, 1e-3 / (number + 1)))
        recorder.layers(rows)


def picture(path: Path, text: str) -> None:
    """Draw a contact sheet that can be told from others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = Image.new("RGB", (1280, 960), "#2b3440")
    draw = ImageDraw.Draw(sheet)
    for n in range(6):
        x, y = 20 + n % 3 * 420, 20 + n // 3 * 470
        draw.rectangle((x, y, x + 400, y + 450), fill=f"#{60 + 20 * n:02x}{140 - 12 * n:02x}90")
        draw.rectangle((x + 90, y + 120, x + 290, y + 330), outline="#ffd24a", width=4)
        draw.text((x + 12, y + 10), f"{text} {n}", fill="white", font_size=28)
    sheet.save(path, quality=80)


def healthy(run: Path, steps: int = 300) -> Path:
    """Record a run without a fault, a few steps clipped."""
    write(run, steps, lambda n: staged(clipped(n) if n % 97 == 0 else row(n)))
    layers(run, steps // 10)
    return run


def sick(run: Path) -> Path:
    """Record a run with 40 incidents of every kind, pictures, a hostile file name, backoffs and overflows."""
    spots = [60 + 45 * n for n in range(INCIDENTS)]

    def change(step: int) -> StepRow:
        factor = 0.1 if 500 < step <= 900 else min(1.0, 0.1 * 1.02 ** (step - 900)) if step > 900 else 1.0
        warm = min(1.0, step / 150)
        rate = 0.01 * warm * (1 - 0.99 * step / SICK_STEPS)
        noise = random.Random(step).lognormvariate(0, 0.35)
        if step in spots:
            now = bad(step, epoch=(step - 1) // 40 + 1, batch=(step - 1) % 40 + 1)
        elif step < 6 or step % 371 == 0:
            now = overflow(step, epoch=(step - 1) // 40 + 1, batch=(step - 1) % 40 + 1)
        else:
            norm = (60 / (1 + step / 80) + 4) * noise * (12 if step % 211 == 0 else 1)
            now = row(
                step, 40, grad_norm=norm, clip_scale=min(1.0, 10 / norm), verdict="clipped" if norm > 10 else "ok"
            )
            now = replace(now, loss=(200 / (1 + step / 200) + 20) * noise**0.3)
        scale = 65536.0 / 2 ** min(step, 5) * 2 ** (step // 700)
        return staged(replace(now, lr=rate * factor, lr_factor=factor, amp_scale=scale))

    incidents = []
    for number, step in enumerate(spots):
        place = {"epoch": (step - 1) // 40 + 1, "batch": (step - 1) % 40 + 1}
        name = f"stability/batches/e{place['epoch']:03d}_b{place['batch']:04d}.jpg"
        if number < 20:
            picture(run / name, f"batch {number}")
        entry = incident(step, **place, images=[f"/data/{HOSTILE}", f"/data/images/{number:06d}.jpg"])
        more = {
            "picture": name,
            "culprit": f"the image {HOSTILE} has a box of width 0",
            "layer": "model.23.cv2.0",
            "term": "box_loss",
            "cause": "data",
            "steps_lost": 1,
        }
        kinds = (
            "bad_batch",
            "bad_batch",
            "diverging",
            "poisoned",
            "norm_overflow",
            "internal_error",
            "native_recovery",
        )
        incidents.append((replace(entry, kind=kinds[number % len(kinds)]), more))
        if kinds[number % len(kinds)] == "diverging":
            incidents.append(
                (_remedy(entry, "lr_backoff", "lowered the learning rate to 0.1 times its planned value"), {})
            )
            incidents.append((_remedy(entry, "rollback", "rolled back to the snapshot of step 480"), {}))
    write(run, SICK_STEPS, change, info=replace(INFO, amp="fp16", epochs=50, optimizer="SGD", batch=8))
    paths = RunPaths(run)
    lines = [json.dumps({**_plain(entry), **more}) for entry, more in incidents]
    paths.incidents.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (paths.folder / "quarantine.txt").write_text(f"/data/{HOSTILE}\n/data/images/000001.jpg\n", encoding="utf-8")
    (run / "args.yaml").write_text(
        "lr0: 0.01\noptimizer: SGD\nwarmup_epochs: 3.0\nepochs: 50\nclose_mosaic: 10\ndata: coco8.yaml\n",
        encoding="utf-8",
    )
    layers(run, 50, dying="model.5")
    return run


def crashed(run: Path) -> Path:
    """Record a run that was killed in the middle of a line."""
    write(run, 120, lambda n: staged(bad(n) if n == 40 else row(n)), [incident(40), incident(41)], info=None)
    for path in (RunPaths(run).steps, RunPaths(run).incidents):
        path.write_bytes(path.read_bytes()[:-17])
    return run


def empty(run: Path) -> Path:
    """Record a run that did not come to its first step."""
    return write(run, 0, info=replace(INFO, finished=""))


def newer(run: Path) -> Path:
    """Record a run as a version of gradsafe may that is not written yet."""
    write(run, 30, info=None)
    RunPaths(run).info.write_text('{"schema_version": 9, "batch": "sixteen"}', encoding="utf-8")
    return run


def endless(run: Path, steps: int = 100_000) -> Path:
    """Record a long run, every number noisy."""
    per_epoch = steps // 100

    def change(step: int) -> StepRow:
        norm = 4 + 2 * math.sin(step) + 3 * math.sin(0.013 * step)
        if step % 9973 == 0:
            return staged(bad(step, epoch=(step - 1) // per_epoch + 1))
        return staged(row(step, per_epoch, grad_norm=abs(norm) + 0.1 + 20 * (step % 50 == 0), amp_scale=65536.0))

    write(run, steps, change, info=replace(INFO, amp="fp16", epochs=100))
    layers(run, 100, [f"model.{n}" for n in range(40)])
    return run


def _remedy(entry: Incident, kind: str, action: str) -> Incident:
    return replace(entry, kind=kind, message="training diverged", action=action, images=[], items={}, loss=NAN)


def _plain(entry: Incident) -> dict[str, object]:
    return {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in _jsonable(entry).items()}


def _jsonable(entry: Incident) -> dict[str, object]:
    from dataclasses import asdict

    from yolo_gradsafe.telemetry.schema import to_json

    return dict(to_json(asdict(entry)))
