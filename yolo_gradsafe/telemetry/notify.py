"""Tells somebody of an incident while training goes on: a function of the user's, a webhook, or both."""

from __future__ import annotations

import json
import queue
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from yolo_gradsafe.telemetry.schema import Incident, to_json

__all__ = ["Listener", "Notifier", "Webhook", "masked"]

Listener = Callable[[dict[str, Any]], object]
"""Takes an incident: the fields of a line of ``incidents.jsonl``, and ``run``, the run's folder."""

WAITING = 100
"""Incidents that wait at most; of more none is kept, as a training must not wait for who listens."""
PAUSE = 60.0
"""Seconds for which a webhook hears no second time of the same kind."""


class Notifier:
    """Calls listeners in a thread of its own. What they do, raise or wait for never reaches the training.

    Args:
        listeners: Called one after the other with each incident.
        run: The run's folder, which they are told.
        seconds: How long ``close`` waits for what is under way.
        warn: Shows a sentence to the user; a listener that fails is told of once.
    """

    def __init__(self, listeners: Sequence[Listener], run: str, seconds: float, warn: Callable[[str], None]) -> None:
        self._listeners = list(listeners)
        self._run = run
        self._seconds = seconds
        self._warn = warn
        self._waiting: queue.Queue[dict[str, Any] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._failed: set[int] = set()

    def tell(self, incident: Incident) -> None:
        """Hand an incident over, at once; it is lost where too many wait."""
        if self._thread is None:  # begun late, so that a process that is forked before has none
            self._thread = threading.Thread(target=self._work, name="gradsafe-on-incident", daemon=True)
            self._thread.start()
        self._put({**to_json(asdict(incident)), "run": self._run})

    def close(self) -> None:
        """Wait for what is under way, for a limited time."""
        if self._thread is not None:
            self._put(None)
            self._thread.join(self._seconds)
            self._thread = None

    def _put(self, item: dict[str, Any] | None) -> None:
        try:
            self._waiting.put_nowait(item)
        except queue.Full:
            return

    def _work(self) -> None:
        while (incident := self._waiting.get()) is not None:
            for number, listener in enumerate(self._listeners):
                try:
                    listener(dict(incident))
                except Exception as error:
                    if number not in self._failed:
                        self._failed.add(number)
                        self._warn(f"on_incident failed, training goes on: {type(error).__name__}: {error}")


class Webhook:
    """Posts incidents as JSON to an address; ``text`` is the sentence that chat programs show.

    Args:
        url: The address, http or https.
        seconds: How long it may take to answer.
    """

    def __init__(self, url: str, seconds: float) -> None:
        self._url = url
        self._seconds = seconds
        self._last: dict[str, float] = {}

    def __call__(self, incident: Mapping[str, Any]) -> None:
        """Post an incident, unless one of its kind was posted less than a minute ago.

        Raises:
            OSError: Nobody takes it, or not in time.
        """
        kind, now = str(incident["kind"]), time.monotonic()
        if now - self._last.get(kind, -PAUSE) < PAUSE:
            return
        self._last[kind] = now
        where = f"{incident['run']}, epoch {incident['epoch']}, batch {incident['batch']}"
        text = f"GradSafe: {where}: {incident['message']} {incident['culprit']} {incident['action']}"
        body = json.dumps({"text": " ".join(text.split()), **incident}, allow_nan=False).encode()
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=self._seconds) as answer:
            answer.read(1)


def masked(url: str) -> str:
    """Return an address without what may be secret in it: scheme and host remain."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}/..."
