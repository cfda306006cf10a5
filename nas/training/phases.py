"""The phases of a training: which choices are open, for how long, at which rate. Pure functions of space and settings.

The sandwich rule has one phase. Progressive shrinking trains the largest network, which then teaches, and opens kernel,
depth, expand ratio and whatever else the space has, one after the other (Cai et al., Once-for-All, ICLR 2020, section
3.4; lengths, rates and subnets a step as in its published training script).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from nas.errors import TrainingError
from nas.training.settings import PhaseSettings, TrainSettings
from searchspaces import Architecture, SearchSpace

TEACHER, PROGRESSIVE, SANDWICH = "teacher", "progressive", "sandwich"

# Opened in this order, then the others in the order of the space.
_ORDER = ("kernel", "depth", "expand")
# Opened with all values at once: a smaller kernel is a view of the larger one, and operators have no order of size.
_AT_ONCE = ("kernel", "op")
# Kinds that use the leading channels of a layer, which are put in order of importance before more values open.
_CHANNEL_KINDS = ("expand", "width")
# A forward pass costs about a third of a forward and a backward pass.
_FORWARD_PASS = 1 / 3
_ENOUGH_EPOCHS = 1_000  # for any number of phases, where only their names matter


@dataclass(frozen=True, slots=True, kw_only=True)
class _Figures:
    """Share of all epochs, rate relative to `train.learning_rate`, and warm-up as a share of the phase.

    `warmup` is None where the user's warm-up counts.
    """

    share: int
    rate: float
    warmup: float | None = None


# Rates are 3e-2, 2.5e-3 and 7.5e-3, and 5 of 120 epochs warm up. The teacher's 180 epochs are the authors' figure.
_TEACHER = _Figures(share=180, rate=1.0)
_KERNEL = _Figures(share=120, rate=1.0, warmup=5 / 120)
_FIRST_OF_TWO = _Figures(share=25, rate=1 / 12, warmup=0.0)
_WHOLE_KIND = _Figures(share=120, rate=1 / 4, warmup=5 / 120)
_SANDWICH = _Figures(share=120, rate=1.0)
# A network that is trained already only has to get used to its new data.
_TUNED_TEACHER = _Figures(share=25, rate=1 / 4)
_SUBNETS: Mapping[str, int] = {"kernel": 1, "depth": 2}
_MOST_SUBNETS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A stretch of whole epochs with its own optimiser and learning-rate schedule.

    Attributes:
        name: for people, for example "depth 1".
        rule: "teacher" (the largest network and the labels), "progressive" (random open subnets and the teacher) or
            "sandwich" (the largest, the smallest and random ones).
        opened: kind of choice -> how many of its largest values are in use. Kinds that are not named are fully open:
            those of the input size always.
        first_epoch: epochs before it.
        epochs: its length.
        learning_rate: peak rate.
        warmup_epochs: epochs of linear warm-up; may be a fraction.
        num_subnets: subnets a step; with the sandwich rule the random ones.
    """

    name: str
    rule: str
    opened: Mapping[str, int]
    first_epoch: int
    epochs: int
    learning_rate: float
    warmup_epochs: float
    num_subnets: int

    @property
    def last_epoch(self) -> int:
        """Epochs that are finished when this phase is."""
        return self.first_epoch + self.epochs

    @property
    def passes(self) -> float:
        """Forward and backward passes of one step, for estimates of time."""
        return {TEACHER: 1.0, PROGRESSIVE: self.num_subnets + _FORWARD_PASS, SANDWICH: self.num_subnets + 2.0}[
            self.rule
        ]

    def sorts_channels(self, before: "Phase") -> bool:
        """Whether this phase opens more channel numbers than the one before it."""
        return any(
            kind in self.opened and self.opened[kind] > before.opened.get(kind, self.opened[kind])
            for kind in _CHANNEL_KINDS
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """A phase before the epochs are divided."""

    name: str
    rule: str
    opened: Mapping[str, int]
    figures: _Figures
    num_subnets: int = 1


def phases_of(space: SearchSpace, settings: TrainSettings) -> tuple[Phase, ...]:
    """The phases of a training, in order; their epochs add up to `settings.epochs`.

    Training that starts from other weights (`settings.start_sha256`) begins with a short phase of the largest network
    at a quarter of the rate.

    Raises:
        TrainingError: an unknown method, fewer epochs than phases, or phases by hand that do not fit the space.
    """
    if settings.method == SANDWICH:
        return _sandwich(space, settings)
    if settings.method != PROGRESSIVE:
        raise TrainingError(
            f"unknown training method {settings.method!r}", hint=f"train.method is {SANDWICH} or {PROGRESSIVE}"
        )
    return _by_hand(space, settings) if settings.phases else _published(space, settings)


def phase_at(phases: Sequence[Phase], epoch: int) -> int:
    """Index of the phase that trains epoch `epoch`, counted from 0."""
    return next(index for index, phase in enumerate(phases) if epoch < phase.last_epoch)


def input_kinds(space: SearchSpace) -> frozenset[str]:
    """Kinds of choice that decide the size of the input (for example "resolution"): elastic in every phase."""
    genes, shape = space.complete_genes(space.largest), space.input_shape(space.largest)
    return frozenset(
        choice.kind
        for choice in space.choices
        if space.input_shape(space.architecture({**genes, choice.name: choice.values[0]})) != shape
    )


def smallest_open(space: SearchSpace, opened: Mapping[str, int]) -> Architecture:
    """The architecture with the smallest value of every choice among those that are open."""
    lowest_G = space.lowest_positions(opened)
    return space.architectures(space.canonicalise(lowest_G[None]))[0]


def _sizes(space: SearchSpace) -> dict[str, int]:
    """Kind -> largest number of values of its choices, in the order in which they are opened, without input sizes."""
    sizes: dict[str, int] = {}
    for choice in space.choices:
        sizes[choice.kind] = max(sizes.get(choice.kind, 0), len(choice.values))
    inputs = input_kinds(space)
    ordered = [*(kind for kind in _ORDER if kind in sizes), *(kind for kind in sizes if kind not in _ORDER)]
    return {kind: sizes[kind] for kind in ordered if kind not in inputs}


def _sandwich(space: SearchSpace, settings: TrainSettings) -> tuple[Phase, ...]:
    if settings.phases:
        raise TrainingError(
            "the sandwich rule has no phases", hint="leave train.phases out, or set train.method to progressive"
        )
    sandwich = _Draft(
        name=SANDWICH, rule=SANDWICH, opened=_sizes(space), figures=_SANDWICH, num_subnets=settings.random_subnets
    )
    tuned = [] if settings.start_sha256 is None else [_teacher(space, settings)]
    return _scheduled([*tuned, sandwich], settings)


def _published(space: SearchSpace, settings: TrainSettings) -> tuple[Phase, ...]:
    drafts = [_teacher(space, settings)]
    opened = dict(drafts[0].opened)
    for kind, size in _sizes(space).items():
        # Two values are all of them: a second phase would open nothing.
        counts = [] if size == 1 else [size] if size == 2 or kind in _AT_ONCE else [2, size]
        for number, count in enumerate(counts, start=1):
            opened = {**opened, kind: count}
            drafts.append(
                _Draft(
                    name=kind if len(counts) == 1 else f"{kind} {number}",
                    rule=PROGRESSIVE,
                    opened=opened,
                    figures=_KERNEL if kind == "kernel" else _WHOLE_KIND if count == size else _FIRST_OF_TWO,
                    num_subnets=_SUBNETS.get(kind, _MOST_SUBNETS),
                )
            )
    return _scheduled(drafts, settings)


def _teacher(space: SearchSpace, settings: TrainSettings) -> _Draft:
    figures = _TEACHER if settings.start_sha256 is None else _TUNED_TEACHER
    return _Draft(name=TEACHER, rule=TEACHER, opened=dict.fromkeys(_sizes(space), 1), figures=figures)


def _scheduled(drafts: Sequence[_Draft], settings: TrainSettings) -> tuple[Phase, ...]:
    """Divide the epochs in proportion to the shares, at least one a phase."""
    if settings.epochs < len(drafts):
        raise TrainingError(
            f"train.epochs is {settings.epochs}, but the training has {len(drafts)} phases of at least one epoch: "
            + ", ".join(draft.name for draft in drafts),
            hint=f"set train.epochs to {len(drafts)} or more",
        )
    shares = list(accumulate((draft.figures.share for draft in drafts), initial=0))
    ends = [round(settings.epochs * share / shares[-1]) for share in shares]
    if any(first == last for first, last in pairwise(ends)):
        spare = settings.epochs - len(drafts)
        ends = [number + round(spare * share / shares[-1]) for number, share in enumerate(shares)]
    phases = []
    for draft, (first, last) in zip(drafts, pairwise(ends), strict=True):
        length, warmup = last - first, draft.figures.warmup
        phases.append(
            Phase(
                name=draft.name,
                rule=draft.rule,
                opened=draft.opened,
                first_epoch=first,
                epochs=length,
                learning_rate=draft.figures.rate * settings.learning_rate,
                warmup_epochs=min(settings.warmup_epochs, length / 2) if warmup is None else warmup * length,
                num_subnets=draft.num_subnets,
            )
        )
    return tuple(phases)


def _by_hand(space: SearchSpace, settings: TrainSettings) -> tuple[Phase, ...]:
    sizes = _sizes(space)
    published = {phase.name: phase for phase in _published(space, replace(settings, phases=(), epochs=_ENOUGH_EPOCHS))}
    closed = dict.fromkeys(sizes, 1)
    opened, phases = closed, list[Phase]()
    for number, wanted in enumerate(settings.phases):
        place = f"train.phases[{number}]"
        before, opened = opened, {**opened, **_opening(wanted, place=place, sizes=sizes, published=published)}
        if any(opened[kind] < before[kind] for kind in sizes):
            raise TrainingError(
                f"{place} closes what an earlier phase opened: {dict(opened)} after {dict(before)}",
                hint="give each kind of choice at least as many values as before",
            )
        first = phases[-1].last_epoch if phases else 0
        news = ", ".join(f"{kind} {opened[kind]}" for kind in sizes if opened[kind] != before[kind])
        phases.append(
            Phase(
                name=TEACHER if opened == closed else wanted.open if isinstance(wanted.open, str) else news or "more",
                rule=TEACHER if opened == closed else PROGRESSIVE,
                opened=opened,
                first_epoch=first,
                epochs=wanted.epochs,
                learning_rate=wanted.learning_rate,
                warmup_epochs=wanted.warmup_epochs,
                num_subnets=wanted.subnets,
            )
        )
    _check_whole(phases, sizes=sizes, epochs=settings.epochs)
    return tuple(phases)


def _opening(
    wanted: PhaseSettings, *, place: str, sizes: Mapping[str, int], published: Mapping[str, Phase]
) -> Mapping[str, int]:
    if isinstance(wanted.open, str):
        if wanted.open not in published:
            raise TrainingError(
                f"{place}.open is {wanted.open!r}, this space's phases are {', '.join(map(repr, published))}",
                hint="use one of these names, or a mapping such as {kernel: 3}",
            )
        return published[wanted.open].opened
    for kind, count in wanted.open.items():
        if not 1 <= count <= sizes.get(kind, 0):
            allowed = ", ".join(f"{name}: 1 ... {size}" for name, size in sizes.items())
            raise TrainingError(f"{place}.open has {kind}: {count}, allowed are {allowed}", hint="correct train.phases")
    return wanted.open


def _check_whole(phases: Sequence[Phase], *, sizes: Mapping[str, int], epochs: int) -> None:
    if phases[0].rule != TEACHER:
        raise TrainingError(
            f"train.phases[0] opens {phases[0].name}, but the largest network comes first: it teaches the others",
            hint="begin train.phases with {open: teacher, epochs: ..., learning_rate: ...}",
        )
    left = [kind for kind, size in sizes.items() if phases[-1].opened[kind] < size]
    if left:
        raise TrainingError(
            f"train.phases leave {', '.join(left)} partly closed: the search would meet subnets never trained",
            hint="add phases that open the rest, or take the values out of the space",
        )
    if phases[-1].last_epoch != epochs:
        raise TrainingError(
            f"train.epochs is {epochs}, the epochs of train.phases add up to {phases[-1].last_epoch}",
            hint=f"set train.epochs to {phases[-1].last_epoch}",
        )
