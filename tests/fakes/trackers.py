"""A tracker that can be switched off and on, around a real one."""

from collections.abc import Mapping
from pathlib import Path

from experiments.errors import TrackingError
from nas.tracking import RegisteredModel, RunView, Tracker


class FlakyTracker:
    """Fails like an unreachable server while `broken`, and passes everything on to `inner` otherwise.

    Attributes:
        inner: the tracker that does the work.
        broken: the switch.
        calls: names of the methods called, in order, failed ones included.
    """

    def __init__(self, inner: Tracker, *, broken: bool = False) -> None:
        self.inner = inner
        self.broken = broken
        self.calls: list[str] = []

    def sync(self, view: RunView) -> None:
        """Pass on, or fail."""
        self._call("sync")
        self.inner.sync(view)

    def register(
        self, model_dir: Path, *, run_id: str, name: str, alias: str, tags: Mapping[str, str]
    ) -> RegisteredModel:
        """Pass on, or fail."""
        self._call("register")
        return self.inner.register(model_dir, run_id=run_id, name=name, alias=alias, tags=tags)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.broken:
            raise TrackingError(f"tracker is switched off: cannot {name}", hint="Switch it on: broken = False.")
