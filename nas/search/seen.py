"""What a study knows, as genomes: which architectures were proposed, and what was told of them.

Letters: N architectures, G genes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from searchspaces import SearchSpace
from searchspaces.genomes import Genomes

NOT_EVALUATED = "not_evaluated"
"""User attribute of trials that were closed without an evaluation: their values mean nothing."""

Genome = npt.NDArray[np.int8]
"""One canonical genome (G,)."""


@dataclass(slots=True)
class Seen:
    """The trials of a study; grows with it, and a new one over an old study knows the same, but for what failed.

    What failed while this one was there is not new any more; what failed before may be tried again, as the cause may
    be mended.

    Attributes:
        space: whose architectures the trials suggest.
        genomes: evaluated architectures, the oldest first; values: theirs.
        known: genomes, as bytes, of all trials: evaluated, waiting and refused ones, and those that failed since.
        finished: numbers of the trials that were read to their end.
        waiting: by number of the trial, what waits for its values.
        has_read: whether the study was read before.
    """

    space: SearchSpace
    genomes: list[Genome] = field(default_factory=list)
    values: list[Sequence[float]] = field(default_factory=list)
    known: set[bytes] = field(default_factory=set)
    finished: set[int] = field(default_factory=set)
    waiting: dict[int, Genome] = field(default_factory=dict)
    has_read: bool = False

    def read(self, study: Study) -> Genomes:
        """Learn of new trials; returns the genomes (N, G) of those that wait for their values."""
        for trial in study.get_trials(deepcopy=False):
            if trial.number in self.finished or (trial.number in self.waiting and not trial.state.is_finished()):
                continue
            genome_G = self._genome(trial)
            if genome_G is None:
                continue
            if self.has_read or trial.state != TrialState.FAIL:
                self.known.add(genome_G.tobytes())
            if not trial.state.is_finished():
                self.waiting[trial.number] = genome_G
                continue
            self.waiting.pop(trial.number, None)
            self.finished.add(trial.number)
            is_told = trial.state == TrialState.COMPLETE and NOT_EVALUATED not in trial.user_attrs
            if is_told and np.isfinite(trial.values).all():
                self.genomes.append(genome_G)
                self.values.append(trial.values)
        self.has_read = True
        waiting = list(self.waiting.values())
        return np.array(waiting, dtype=np.int8).reshape(len(waiting), len(self.space.choices))

    def is_new(self, genome_G: Genome) -> bool:
        """Whether it is none of the known ones."""
        return genome_G.tobytes() not in self.known

    def _genome(self, trial: FrozenTrial) -> Genome | None:
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        if any(choice.name not in params for choice in self.space.choices):
            return None
        entries = [choice.values.index(params[choice.name]) for choice in self.space.choices]
        genome_G: Genome = self.space.canonicalise(np.array([entries], dtype=np.int8))[0]
        return genome_G
