"""What has been searched so far, so that a benchmark that was stopped goes on."""

from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.benchmarks.json_lines import append_line, read_lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """One search.

    Attributes:
        case, sampler, seed, budget: which one.
        rows: of the case's table, in the order of their evaluation.
        seconds: how long it took, all evaluations being told at once.
    """

    case: str
    sampler: str
    seed: int
    budget: int
    rows: list[int]
    seconds: float


class SearchStore:
    """A file `SAMPLER.jsonl` for each sampler, one line a search; without a directory nothing is kept.

    Results stay valid as long as the sampler's code does: delete its file when it changes.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def find(self, *, case: str, sampler: str, seed: int, budget: int) -> Searched | None:
        """The search with exactly these settings, or None."""
        if self._directory is None:
            return None
        wanted = {"case": case, "sampler": sampler, "seed": seed, "budget": budget}
        for content in read_lines(self._path(sampler)):
            if wanted.items() <= content.items():
                return Searched(**content)
        return None

    def add(self, searched: Searched) -> None:
        """Keep one."""
        if self._directory is not None:
            append_line(self._path(searched.sampler), asdict(searched))

    def _path(self, sampler: str) -> Path:
        assert self._directory is not None
        return self._directory / f"{sampler}.jsonl"
