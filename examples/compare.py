"""Two trainings that differ in one setting, side by side."""

from pathlib import Path

from yolo_gradsafe import YOLO, GradSafe
from yolo_gradsafe.data import draw_detect
from yolo_gradsafe.report.compare import compare, gather
from yolo_gradsafe.report.page.comparison import write_comparison

data = draw_detect(Path("runs/examples/data/detect"), train=32, val=8, size=64)
settings = {"data": str(data), "epochs": 3, "imgsz": 64, "batch": 4, "nbs": 4, "device": "cpu", "workers": 0}

runs = []
for name, clip in {"norm": {"max_norm": 10.0}, "auto": {"mode": "auto", "warmup_steps": 10}}.items():
    model = YOLO("yolo26n.yaml")
    model.train(**settings, name=f"compare-{name}", callbacks=GradSafe(clip=clip))
    runs.append(Path(model.trainer.save_dir))

members = gather(runs)  # or, on the command line: gradsafe compare RUN RUN --html
comparison = compare(members)
print("", *comparison.names, sep="\t")
for title, rows in comparison.sections.items():
    print(title)
    for row in rows:
        print(f"  {row.name}", *row.values, sep="\t")
print(write_comparison(Path("runs/examples/compare.html"), members, comparison))
