"""Runs the stages in order on one session and keeps the tracker's mirror up to date."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from experiments import search_stage, stages
from experiments.errors import TrackingError
from experiments.ray.cluster import connect
from experiments.recipe import Recipe
from experiments.report import run_view, write_report
from experiments.reporter import STAGES, Reporter
from experiments.session import Session
from experiments.soups import average_copies
from experiments.stage_costs import most_cores, recorded
from experiments.tracking.mlflow import MlflowTracker
from hardware.errors import DeadDeviceError
from hardware.fleet import RayPlace, load_fleet
from nas.errors import RunError
from nas.export import Exported
from nas.near_front import NearFront
from nas.tracking import RunStatus, Tracker
from searchspaces import Architecture
from searchspaces.errors import Hinted

_SYNC_SECONDS = 15.0
_LARGEST_SHARE = 0.1  # of the time may go into syncs while a stage is at work
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a pipeline made.

    Attributes:
        exported: the exported model, if that stage ran.
        registered: "name version N, alias A" of the model registry, or None.
        tracked: whether the tracker shows everything.
    """

    exported: Exported | None
    registered: str | None
    tracked: bool


def make_tracker(session: Session) -> Tracker:
    """The tracker that the recipe asks for."""
    settings = session.recipe.tracking
    return MlflowTracker(session.run.path / "mlflow", uri=settings.uri, experiment=settings.experiment)


def run_stages(
    session: Session,
    *,
    names: Sequence[str],
    reporter: Reporter,
    address: str | None = None,
    arch_id: str | None = None,
    formats: Sequence[str] | None = None,
    device: str | None = None,
    tracker: Tracker | None = None,
) -> Outcome:
    """Run the named stages; each does only what is missing.

    Args:
        session: an open session.
        names: of `reporter.STAGES`, in their order.
        reporter: hears of progress.
        address: Ray cluster; None starts an embedded instance when a stage needs one.
        arch_id: what to export; None for the knee.
        formats: of exported files, see `stages.export`; None for the recipe's.
        device: id of the one to profile and verify on; None for all that the recipe names.
        tracker: mirrors the run; None for the recipe's. If it fails, the run goes on and says so.

    Raises:
        Hinted: whatever a stage cannot do; what was finished stays.
    """
    if "export" in names:
        stages.require_formats(session, formats=formats)
    named = [session.device_id, *(further.id for further in session.recipe.devices)]
    on_devices = [session.on(one) for one in ([device] if device else named)]
    mirror = _Mirror(session, tracker=tracker or make_tracker(session), reporter=reporter)
    # The stack is the inner one: workers have ended, and written what they had, when the mirror tells how.
    with mirror.telling_how_it_ends(), ExitStack() as stack:
        cluster = _Cluster(stack, session=session, address=address)
        actions: dict[str, Callable[[], bool]] = {
            "train": lambda: stages.train(session, cluster=cluster, reporter=reporter, watching=mirror.watching),
            "profile": lambda: _on_all(stages.profile, on_devices, reporter=reporter),
            "search": lambda: search_stage.search(
                session, cluster=cluster, reporter=reporter, on_rows=mirror.sync_now_and_then
            ),
            "refine": lambda: stages.refine(session, cluster=cluster, reporter=reporter),
            "verify": lambda: _on_all(stages.verify, on_devices, reporter=reporter),
        }
        changed = False
        for name in STAGES:
            if name in actions and name in names:
                try:
                    changed = recorded(session, name, actions[name], device_id=device)
                except DeadDeviceError:
                    # What needs no device is done and marked.
                    mirror.sync()
                    raise
                if changed:
                    mirror.sync()
        if "export" not in names:
            # A mirror that was lost or fell behind comes back with the next command, whatever that finds to do.
            if not changed:
                mirror.sync()
            return Outcome(exported=None, registered=None, tracked=mirror.healthy)
        # Still inside: Ray's processes ending would disturb the last measurement.
        exported = recorded(
            session,
            "export",
            lambda: stages.export(session, reporter=reporter, arch_id=arch_id, formats=formats),
        )
    mirror.sync()
    return Outcome(
        exported=exported, registered=mirror.register(exported, knee=arch_id is None), tracked=mirror.healthy
    )


@contextmanager
def reaching_device(recipe: Recipe, *, address: str | None) -> Iterator[str | None]:
    """Connected to a cluster for the length of a `with` block, if the recipe's device is on one of its nodes.

    Stages connect when they need workers; with such a device even opening a session may measure.

    Yields:
        The address that is left for `run_stages` to connect to.
    """
    is_there = address is not None and any(
        entry.device_id in {device.id for device in (recipe.device, *recipe.devices)}
        and isinstance(entry.place, RayPlace)
        for entry in load_fleet()
    )
    if not is_there:
        yield address
        return
    with connect(address):
        yield None


def fine_tune(
    session: Session,
    archs: Sequence[Architecture],
    *,
    reporter: Reporter,
    address: str | None = None,
    copies: int = 1,
) -> None:
    """Fine-tune architectures of a trained run as the stage `refine` does, beside those that it chooses.

    Args:
        session: an open session.
        archs: which ones; those that are fine-tuned already stay as they are.
        reporter: hears of progress.
        address: Ray cluster; None starts an embedded instance if one is needed.
        copies: of each; the mean of two or more is a candidate too where that helps, see `nas.soup`.

    Raises:
        RunError: the supernet is not trained.
        CheckpointError: fine-tuning failed for all of them.
    """
    stages.require_trained(session)
    each = f"{session.recipe.refine.epochs} epochs each" + (f", {copies} copies" if copies > 1 else "")
    reporter.stage("refine", text=f"{len(archs)} architectures, {each}")
    with ExitStack() as stack:
        cluster = _Cluster(stack, session=session, address=address)
        changed = recorded(
            session,
            "refine",
            lambda: stages.fine_tune(session, archs, cluster=cluster, reporter=reporter, copies=copies),
        )
    if copies > 1:
        for arch in archs:
            average_copies(session, arch, copies=copies, reporter=reporter)
    reporter.done("fine-tuned" if changed else "finished before")


def measure_near_front(session: Session, *, device: str | None, budget: int, reporter: Reporter) -> NearFront:
    """See `stages.profile_near_front`; its time is in the ledger as that of the stage `profile`."""
    found: list[NearFront] = []

    def measure() -> bool:
        found.append(stages.profile_near_front(session.on(device), budget=budget, reporter=reporter))
        return True

    recorded(session, "profile", measure)
    return found[0]


def _on_all(stage: Callable[..., bool], sessions: Sequence[Session], *, reporter: Reporter) -> bool:
    """Run a stage on every device; whether anything was left to do on one."""
    changed = [stage(session, reporter=reporter) for session in sessions]
    return any(changed)


class _Cluster:
    """Connects to Ray when the first stage needs it, and stays connected until the stack is closed."""

    def __init__(self, stack: ExitStack, *, session: Session, address: str | None) -> None:
        self._stack, self._session, self._address = stack, session, address
        self._connected = False

    def __call__(self) -> AbstractContextManager[object]:
        if not self._connected:
            needed = max(most_cores(self._session.recipe).values())
            self._stack.enter_context(connect(self._address, num_cpus=needed if self._address is None else None))
            self._connected = True
        return nullcontext()


class _Mirror:
    """Syncs the tracker; a tracker that fails is reported once and never stops a run."""

    def __init__(self, session: Session, *, tracker: Tracker, reporter: Reporter) -> None:
        self._session, self._tracker, self._reporter = session, tracker, reporter
        self._lock = threading.Lock()
        self._due = time.monotonic() + _SYNC_SECONDS
        self.healthy = True

    def sync_now_and_then(self) -> None:
        """Sync if the last one is long ago."""
        if time.monotonic() > self._due:
            self._show(live=True)

    def sync(self) -> None:
        """Write the report files and make the tracker show the run as it is now."""
        self._show(artifacts=write_report(self._session.run))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Sync now, and now and then from a thread while others compute. Not for stages that measure in this process.

        The first sync is made before the block begins: a dead tracker is told before hours of training, and MLflow,
        seconds of import, is not imported by two threads.
        """
        self._show(live=True)
        # Opening took its time; it says nothing about later ones.
        self._due = time.monotonic() + _SYNC_SECONDS
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(max(0.0, self._due - time.monotonic())):
                self._show(live=True, unless=stop)

        threading.Thread(target=watch, name="tracking", daemon=True).start()
        try:
            yield
        finally:
            stop.set()

    @contextmanager
    def telling_how_it_ends(self) -> Iterator[None]:
        """Make the tracker show a command that failed or was interrupted as such; the error goes on."""
        try:
            yield
        except KeyboardInterrupt:
            self._show(live=True, ended="killed")
            raise
        # A stage that cannot begin (the one before is missing) changes nothing.
        except RunError:
            raise
        except Exception as e:
            self._show(live=True, ended="failed", error=str(e) if isinstance(e, Hinted) else f"{type(e).__name__}: {e}")
            raise

    def _show(
        self,
        *,
        artifacts: list[Path] | None = None,
        live: bool = False,
        ended: RunStatus | None = None,
        error: str | None = None,
        unless: threading.Event | None = None,
    ) -> None:
        """Make the tracker show the run, unless an event has happened while another sync was waited for."""
        if not self._lock.acquire(timeout=_PATIENCE_SECONDS):
            waited = f"the tracker has not answered for {_PATIENCE_SECONDS:.0f} s"
            self._complain(TrackingError(waited, hint="Check the server at tracking.uri."))
            return
        started = time.monotonic()
        try:
            if unless is None or not unless.is_set():
                view = run_view(self._session.run, artifacts=artifacts or [], live=live, ended=ended, error=error)
                self._tracker.sync(view)
                self.healthy = True
        except TrackingError as e:
            self._complain(e)
        except Exception as e:
            # A stage is at work, or has failed with an error of its own, which must not be hidden by this one.
            if not live:
                raise
            self._complain(TrackingError(f"{type(e).__name__}: {e}", hint="The run directory has everything."))
        finally:
            now = time.monotonic()
            self._due = now + max(_SYNC_SECONDS, (now - started) / _LARGEST_SHARE)
            self._lock.release()

    def register(self, exported: Exported, *, knee: bool) -> str | None:
        """Register the exported model, the recipe's alias pointing to the knee only; None if the tracker fails."""
        recipe = self._session.recipe
        try:
            model = self._tracker.register(
                exported.directory,
                run_id=self._session.run.info.run_id,
                name=recipe.model_name,
                alias=recipe.export.alias if knee else f"candidate-{exported.candidate_id}",
                tags={"candidate": exported.candidate_id},
            )
        except TrackingError as e:
            self._complain(e)
            return None
        return f"{model.name} version {model.version}, alias {model.alias}"

    def _complain(self, error: TrackingError) -> None:
        if self.healthy:
            self._reporter.message(
                f"tracking failed, the run goes on: {error} ({error.hint}) Later: nas sync {self._session.run.path}"
            )
        self.healthy = False
