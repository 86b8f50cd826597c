"""The ``gradsafe`` command, a file a subcommand.

Exit codes: 0 done, 1 the training failed, 2 wrong options or arguments, 130 interrupted. What is heavy is imported by
the command that needs it, so that ``--help`` answers at once.
"""

from yolo_gradsafe.cli import check, compare, config, demo, drill, probe, replay, report, run, train, watch
from yolo_gradsafe.cli.app import app

__all__ = [
    "app",
    "check",
    "compare",
    "config",
    "demo",
    "drill",
    "main",
    "probe",
    "replay",
    "report",
    "run",
    "train",
    "watch",
]


def main() -> None:
    """Run the command line."""
    app()
