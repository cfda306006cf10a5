"""The search that fine-tunes its candidates, whoever runs the fine-tunings: proposes, stops, remembers, tells."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nas.accuracy import Accuracy, Metric
from nas.pricing import Price
from nas.refine import Refined, read_refined
from nas.search.proposals import Proposal, Proposals
from nas.search.stopping import FineTuningGains, Stopped, beaten_by
from searchspaces import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One fine-tuning: of an architecture, in a directory of its own where it goes on from its checkpoints."""

    architecture: Architecture
    directory: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The end of one fine-tuning: finished (`refined`), or stopped with what was found until then."""

    architecture: Architecture
    trial_number: int
    price: Price
    refined: Refined | None
    stopped: Stopped | None
    accuracy: Accuracy
    seconds: float


class TrainingSearch:
    """Hands out fine-tunings and hears of them; results and curves are read from their directories.

    Attributes:
        max_concurrent: fine-tunings at the same time.
        num_stopped: fine-tunings that this call stopped.
    """

    def __init__(
        self,
        proposals: Proposals,
        *,
        directory_of: Callable[[Architecture], Path],
        epochs: int,
        metric: Metric,
        confidence: float | None,
        max_concurrent: int,
        finished: Mapping[str, Refined],
        record: Callable[[Trained], None],
        on_progress: Callable[[int, int], None],
    ) -> None:
        """Go on from what earlier calls finished.

        Args:
            proposals: of the study; it knows what earlier calls finished and stopped.
            directory_of: where an architecture is fine-tuned.
            epochs: of a fine-tuning.
            metric: what accuracies are values of.
            confidence: of early stopping; None: each is fine-tuned to the end.
            max_concurrent: fine-tunings at the same time.
            finished: results of earlier calls by architecture: the front to reach, and the gains that are expected.
            record: stores a result durably; called before the study is told.
            on_progress: called with (evaluated, wanted).
        """
        self._proposals, self._directory_of, self._epochs, self._metric = proposals, directory_of, epochs, metric
        self._confidence, self.max_concurrent = confidence, max_concurrent
        self._record, self._on_progress = record, on_progress
        self.num_stopped = 0
        self._in_flight: dict[Path, Proposal] = {}
        self._stopping: dict[Path, tuple[Stopped, Mapping[str, float]]] = {}
        self._gains = FineTuningGains(confidence=confidence or 0.0)
        self._front: dict[str, tuple[float, float]] = {}
        for refined in finished.values():
            self._remember(refined, price=proposals.price(refined.candidate.architecture))
        on_progress(*proposals.progress)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to hand out any more, and nothing to wait for."""
        return not self._in_flight and not self._proposals.wants_more()

    def take(self) -> Job | None:
        """The next fine-tuning; None if there is none now: something in flight has to end first, or all is over."""
        if len(self._in_flight) >= self.max_concurrent or not self._proposals.wants_more():
            return None
        proposal = self._proposals.take()
        if proposal is None:
            return None
        job = Job(architecture=proposal.architecture, directory=self._directory_of(proposal.architecture))
        self._in_flight[job.directory] = proposal
        return job

    def is_beaten(self, directory: Path, metrics: Mapping[str, float]) -> bool:
        """Hear of an epoch; whether the fine-tuning should end here, because it cannot reach the front.

        Args:
            directory: of the job.
            metrics: what `nas.refine.FineTuning` reports after an epoch.
        """
        epoch, accuracy = int(metrics["epoch"]), metrics["accuracy"]
        if self._confidence is None or epoch >= self._epochs:
            return False
        outlook = self._gains.outlook(epoch, accuracy=accuracy)
        if outlook is None:
            return False
        fastest_ms = self._in_flight[directory].price.latency_predicted_low_ms
        rival = beaten_by(self._front, accuracy=outlook.most, fastest_ms=fastest_ms)
        if rival is None:
            return False
        stopped = Stopped(
            rival=rival,
            accuracy=outlook.expected,
            of_images=int(metrics["num_images"]),
            epoch=epoch,
            of_epochs=self._epochs,
        )
        self._stopping[directory] = stopped, metrics
        return True

    def end(self, directory: Path) -> None:
        """Hear that a fine-tuning ended without an error: record and tell what it found.

        Raises:
            EvaluationError: it left no result, as more than half did.
        """
        proposal = self._in_flight[directory]
        stopping = self._stopping.pop(directory, None)
        refined = read_refined(directory)
        if refined is not None:
            trained = self._trained(proposal, refined.accuracy, refined.seconds, refined=refined)
        elif stopping is not None:
            stopped, metrics = stopping
            accuracy = Accuracy.from_row({**metrics, "metric": self._metric})
            trained = self._trained(proposal, accuracy, metrics["seconds"], stopped=stopped)
        else:
            self.fail(directory, reason="it ended without a result")
            return
        self._record(trained)
        self.num_stopped += trained.stopped is not None
        del self._in_flight[directory]
        value = trained.stopped.accuracy if trained.stopped else trained.accuracy.value
        self._proposals.tell(proposal, accuracy=value)
        if refined is not None:
            self._remember(refined, price=proposal.price)
        self._on_progress(*self._proposals.progress)

    def fail(self, directory: Path, *, reason: str) -> None:
        """Hear that a fine-tuning failed for good.

        Raises:
            EvaluationError: more than half of them failed, after the first five.
        """
        self._stopping.pop(directory, None)
        self._proposals.fail([(self._in_flight.pop(directory), reason)])

    def ended(self) -> str:
        """Why the search ended, a short sentence.

        Raises:
            EvaluationError: nothing is left to try, and more than half of the fine-tunings failed.
        """
        return self._proposals.ended()

    def _trained(
        self,
        proposal: Proposal,
        accuracy: Accuracy,
        seconds: float,
        *,
        refined: Refined | None = None,
        stopped: Stopped | None = None,
    ) -> Trained:
        return Trained(
            architecture=proposal.architecture,
            trial_number=proposal.trials[0].number,
            price=proposal.price,
            refined=refined,
            stopped=stopped,
            accuracy=accuracy,
            seconds=seconds,
        )

    def _remember(self, refined: Refined, *, price: Price) -> None:
        arch_id = refined.candidate.architecture.arch_id
        self._front[arch_id] = refined.accuracy.value, price.latency_predicted_high_ms
        self._gains.add(arch_id, refined.curve)
