"""The Optuna study: it proposes architectures and learns values. What was found lives in the run's tables."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy
import sqlalchemy.exc
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, GPSampler, NSGAIIISampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from nas.errors import RunError
from nas.objectives import ACCURACY, LATENCY, Limit
from nas.pricing import Compute, Price, Pricer
from nas.search.mnasnet import MnasNetSampler
from nas.search.ofa_evolution import OfaEvolutionSampler
from nas.search.repricing import repriced, violations_of
from nas.search.seen import NOT_EVALUATED
from nas.search.settings import SearchSettings
from nas.search.space_sampler import SpaceOptions
from nas.search.storage import KeptStorage, open_storage
from nas.search.surrogate import SurrogateSampler
from searchspaces import Architecture, SpaceError

_ARCH_ID = "arch_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """What a trial is told.

    Attributes:
        accuracy: fraction.
        latency_ms: predicted.
        architecture: whose values they are, where a study may not have heard of it.
    """

    accuracy: float
    latency_ms: float
    architecture: Architecture | None = None


class SearchStudy:
    """Asks for architectures and tells their values; never leaves a running trial behind."""

    def __init__(
        self,
        study: optuna.Study,
        *,
        pricer: Pricer,
        limits: Sequence[Limit],
        keep: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Search with a study.

        Args:
            study: Optuna's, with its sampler.
            pricer: of the space whose architectures are asked for.
            limits: trials are told how far they are from them.
            keep: makes the trial of this number durable; called once its architecture is known.
        """
        self._study = study
        self._pricer, self._space = pricer, pricer.space
        self._limits = tuple(limits)
        self._keep = keep

    def ask(self) -> tuple[Trial, Architecture]:
        """A new proposal; it must be told or failed."""
        with _explained():
            trial = self._study.ask()
            arch = self._space.suggest(trial)
            trial.set_user_attr(_ARCH_ID, arch.arch_id)
            self._keep(trial.number)
        return trial, arch

    def propose_next(self, arch: Architecture) -> None:
        """Make `arch` the next proposal."""
        self._study.enqueue_trial(self._space.complete_genes(arch))

    def constrain(self, trial: Trial, price: Price) -> None:
        """Tell how far the price is from the limits; before the evaluation, so that a kill cannot lose it."""
        for name, violation in violations_of(price, self._limits).items():
            trial.set_constraint(name, violation)

    def tell(self, trial: Trial, values: Values) -> None:
        """Give a trial the values of its architecture."""
        with _explained():
            self._study.tell(trial, [values.accuracy, values.latency_ms])

    def tell_infeasible(self, trial: Trial, price: Price) -> None:
        """Close a trial that exceeds a limit without evaluating it.

        Optuna wants a value for every objective. Evolutions do not look at the accuracy given here: among infeasible
        trials only the violation counts. A Gaussian process is fitted to it, so it is the lowest that was told, which
        is no outlier. The trial is marked, and the tables have no row for it.
        """
        trial.set_user_attr(NOT_EVALUATED, f"not within {', '.join(str(limit) for limit in self._limits)}")
        self._study.tell(trial, [self._lowest_accuracy(), price.latency_predicted_ms])

    def fail(self, trial: Trial, *, reason: str) -> None:
        """Close a trial whose evaluation failed."""
        trial.set_user_attr(NOT_EVALUATED, reason[:500])
        self._study.tell(trial, state=TrialState.FAIL)

    def recover(self, known: Mapping[str, Values]) -> None:
        """Close the trials that a killed process left running, and tell of what the study never heard.

        A left trial whose architecture was evaluated gets its values; another one is failed and proposed again. What
        the tables have and the study has not (its file was lost, or the architecture was put there by hand) becomes a
        trial.

        Args:
            known: values by arch_id, from the tables.
        """
        with _explained():
            for frozen in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                arch = self._architecture(frozen)
                if arch is not None and arch.arch_id in known:
                    values = known[arch.arch_id]
                    self._study.tell(frozen.number, [values.accuracy, values.latency_ms])
                    continue
                self._study.tell(frozen.number, state=TrialState.FAIL)
                if arch is not None:
                    self.propose_next(arch)
            told = {
                trial.user_attrs.get(_ARCH_ID)
                for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
                if NOT_EVALUATED not in trial.user_attrs
            }
            unheard = {arch_id: one for arch_id, one in known.items() if arch_id not in told and one.architecture}
            self._add(list(unheard.values()))

    def _add(self, known: Sequence[Values]) -> None:
        archs = [one.architecture for one in known if one.architecture is not None]
        distributions: dict[str, BaseDistribution] = {
            choice.name: CategoricalDistribution(choice.values) for choice in self._space.choices
        }
        for one, arch, price in zip(known, archs, self._pricer.price(archs), strict=True):
            self._study.add_trial(
                create_trial(
                    values=[one.accuracy, one.latency_ms],
                    params=self._space.complete_genes(arch),
                    distributions=distributions,
                    user_attrs={_ARCH_ID: arch.arch_id},
                    constraints=dict(violations_of(price, self._limits)) or None,
                )
            )

    def num_running(self) -> int:
        """Trials that were asked for and not yet closed."""
        return len(self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _lowest_accuracy(self) -> float:
        trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return min((trial.values[0] for trial in trials if NOT_EVALUATED not in trial.user_attrs), default=0.0)

    def _architecture(self, frozen: FrozenTrial) -> Architecture | None:
        try:
            return self._space.architecture(frozen.params)
        except SpaceError:
            return None  # killed between two suggestions: there is no architecture yet


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the data base says into a RunError."""
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as e:
        raise RunError(
            f"the study cannot be read or written: {e}",
            hint="check the disk, then run the same command again: what was evaluated is kept in the tables",
        ) from e


def open_study(
    path: Path, *, name: str, pricer: Pricer, settings: SearchSettings, elsewhere: Sequence[Compute] = ()
) -> SearchStudy:
    """Open or create the study in the SQLite file `path`.

    Its trials may be those of another sampler, predictor or limits: what was told is true all the same, and is seen
    with the latencies and limits of now.

    Args:
        path: of the file.
        name: of the study.
        pricer: of the space that is searched; samplers that can use it compute costs with it.
        settings: sampler, limits and seed.
        elsewhere: latencies on further devices, for the sampler that searches for all.

    Raises:
        RunError: the file is damaged, of another version of optuna, or belongs to another space.
    """
    space = pricer.space
    hint = f"move {path} away and search again: what was evaluated is kept in the tables"
    directions = [ACCURACY.direction, LATENCY.direction]
    try:
        database = open_storage(path)
        stored = optuna.create_study(study_name=name, storage=database, directions=directions, load_if_exists=True)
        if stored.user_attrs.get("space_id", space.space_id) != space.space_id:
            raise RunError(
                f"the study {path} searches space {stored.user_attrs['space_id']!r}, this run {space.space_id!r}",
                hint=hint,
            )
        stored.set_user_attr("space_id", space.space_id)
        storage = KeptStorage(database, name=name, as_seen=partial(repriced, pricer=pricer, limits=settings.limits))
        study = optuna.load_study(study_name=name, storage=storage)
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as e:
        # RuntimeError: optuna's own, for the tables of another version
        raise RunError(f"the study {path} cannot be opened: {e}", hint=hint) from e
    # The same seed again would propose the same architectures again.
    seed = settings.seed + len(study.get_trials(deepcopy=False))
    study.sampler = make_sampler(settings, pricer=pricer, elsewhere=elsewhere, seed=seed)
    return SearchStudy(study, pricer=pricer, limits=settings.limits, keep=storage.keep)


def make_sampler(
    settings: SearchSettings, *, pricer: Pricer, seed: int, elsewhere: Sequence[Compute] = ()
) -> BaseSampler:
    """The sampler that the settings name, with this seed; see `open_study`."""
    population, space = settings.population, pricer.space
    options = SpaceOptions(objectives=(ACCURACY, LATENCY), computed=pricer.costs, limits=settings.limits, seed=seed)
    match settings.sampler:
        case "surrogate":
            return SurrogateSampler(space, elsewhere=elsewhere, **options)
        case "mnasnet":
            return MnasNetSampler(space, population=population, **options)
        case "ofa-evolution":
            return OfaEvolutionSampler(space, **options)
        case "gradient":
            from nas.search.gradient import GradientSampler  # torch is imported for this one only

            return GradientSampler(space, predictor=pricer.predictor, **options)
        case "nsga2":
            return NSGAIISampler(seed=seed, population_size=population)
        case "nsga3":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return NSGAIIISampler(seed=seed, population_size=population)
        case "tpe":
            return TPESampler(seed=seed, n_startup_trials=population)
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=population, warn_independent_sampling=False)
        case "random":
            return RandomSampler(seed=seed)
