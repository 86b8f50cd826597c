"""The tests of trackers and of Ray Tune, which the dev extra does not bring, with the real packages: ``make trackers``.

They bring many packages along, so each set lies in an environment of its own over the one that is here. Neptune's
integration is in older Ultralytics only: its tests run under the oldest that is supported.
"""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.matrix import RELEASES, ROOT, run, wheel

SETS = (
    (("comet_ml", "clearml", "dvclive"), None),
    (("neptune",), RELEASES[0]),
    (("ray[tune]",), None),
)
"""Packages, and the release of Ultralytics; None for the one that is here."""


def overlay(packages: tuple[str, ...], folder: Path) -> Path:
    """Make an environment with packages in front of those that are here; return its interpreter."""
    run([sys.executable, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    (inside,) = (folder / "lib").glob("python*/site-packages")
    inside.joinpath("below.pth").write_text("\n".join(site.getsitepackages()))
    run([str(python), "-m", "pip", "install", "-q", *packages])
    return python


def main() -> int:
    """Run the tests of each set; return 1 if one failed."""
    failed = 0
    for packages, release in SETS:
        with tempfile.TemporaryDirectory(prefix="gradsafe-trackers-") as room:
            python = overlay(packages, Path(room, "env"))
            paths = [wheel(release, Path(room, "ultralytics")), ROOT] if release else [ROOT]
            env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "YOLO_OFFLINE": "true"}
            words = " or ".join(re.split(r"[_\[]", name)[0] for name in packages)
            tests = ["tests/runs/test_loggers.py", "tests/test_run.py", "-k", words]
            command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-m", "slow", "-rs", *tests]
            failed += subprocess.run(command, cwd=ROOT, env=env, check=False).returncode
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
