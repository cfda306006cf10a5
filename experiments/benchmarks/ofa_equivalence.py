"""Do our supernets compute what the once-for-all reference package computes?

The reference interpreter builds each of the four networks with random weights (kernel transforms and running statistics
included), writes its checkpoint and answers for random subnets. We import the checkpoint and compare, subnet by subnet,
what the supernet and the extracted network answer: max|a-b| / max|a|.

The reference package lives in an environment of its own:

    python -m venv ofa_env
    ofa_env/bin/pip install ofa==0.1.0.post202307202001 torch==2.13.0 numpy pillow pyyaml tqdm
    python -m experiments.benchmarks.ofa_equivalence --reference-python ofa_env/bin/python --out ofa.json
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch

from experiments.benchmarks.harness import BenchmarkReport, benchmark_parser, start
from searchspaces import Architecture, SearchSpace, SpaceError, get_space
from searchspaces.ofa_checkpoint import load_ofa_checkpoint
from searchspaces.ofa_keys import OFA_SPACES

NAME = "ofa_equivalence"
LARGEST_DIFFERENCE = 1e-4
# Answers must depend on the image, or their agreement would prove little: a hundred times what is tolerated.
SMALLEST_CONTRAST = 1e-2

_SCRIPT = Path(__file__).parent / "peers" / "ofa_reference.py"
_HOW_TO_GET_IT = (
    "needs an interpreter that has the reference package: python -m venv ofa_env && ofa_env/bin/pip install "
    "ofa==0.1.0.post202307202001 torch==2.13.0 numpy pillow pyyaml tqdm, then --reference-python ofa_env/bin/python"
)
_TIME_LIMIT_S = 900.0
_BATCH = 2


class _OfaSpace(Protocol):
    def from_ofa(self, **settings: Any) -> Architecture:  # noqa: ANN401 - lists of numbers or a resolution
        """Our architecture of the reference's settings."""


class PeerError(RuntimeError):
    """The reference interpreter gave no answers; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the reference computed, letters: S subnets, N images, K classes.

    Attributes:
        checkpoint: file of its weights.
        subnets: of each subnet its settings (lists by name) and its resolution in pixels.
        logits_SNK: answers.
        images: (N, 3, R, R) by resolution R.
        versions: of the reference's packages.
    """

    checkpoint: Path
    subnets: Sequence[Mapping[str, Any]]
    logits_SNK: npt.NDArray[np.float32]
    images: Mapping[int, torch.Tensor]
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Worst differences of one space, relative to the largest logit of the subnet.

    Attributes:
        num_subnets: different architectures compared.
        resolutions: of their images in pixels.
        supernet, extracted: of the supernet and of the extracted networks to the reference.
        contrast: smallest difference that the reference makes between two images.
    """

    num_subnets: int
    resolutions: tuple[int, ...]
    supernet: float
    extracted: float
    contrast: float


def ask_reference(
    python: Path, space_id: str, *, num_subnets: int, resolutions: Sequence[int], seed: int, directory: Path
) -> Answers:
    """Let the reference interpreter build a random network, and read what it answers.

    Args:
        python: interpreter with the reference package.
        space_id: one of the once-for-all spaces.
        num_subnets: the largest, the smallest and random ones.
        resolutions: which the subnets take in turn.
        seed: of weights, images and subnets.
        directory: empty; receives the reference's files.

    Raises:
        PeerError: it did not start, failed or took too long.
        ModuleNotFoundError: the interpreter lacks the package.
    """
    request = {
        "space": space_id,
        "subnets": num_subnets,
        "resolutions": list(resolutions),
        "batch": _BATCH,
        "seed": seed,
        "threads": torch.get_num_threads(),
    }
    (directory / "request.json").write_text(json.dumps(request), encoding="utf-8")
    # Isolated (-I): neither PYTHONPATH nor this folder may decide what the reference imports.
    command = [str(python), "-I", str(_SCRIPT), str(directory / "request.json"), str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIME_LIMIT_S, check=False)
    except OSError as e:
        raise PeerError(f"{python} does not start: {e.strerror}") from e
    except subprocess.TimeoutExpired as e:
        raise PeerError(f"no answer within {_TIME_LIMIT_S:.0f} s") from e
    last_line = (done.stderr.strip().splitlines() or ["nothing on its standard error"])[-1]
    if last_line.startswith(ModuleNotFoundError.__name__):
        raise ModuleNotFoundError(last_line)
    if done.returncode != 0:
        raise PeerError(f"exit code {done.returncode}: {last_line}")
    facts = json.loads((directory / "subnets.json").read_text(encoding="utf-8"))
    with np.load(directory / "answers.npz", allow_pickle=False) as arrays:
        return Answers(
            checkpoint=directory / "checkpoint.pth",
            subnets=facts["subnets"],
            logits_SNK=arrays["logits"],
            images={r: torch.from_numpy(arrays[f"images_{r}"]) for r in resolutions},
            versions=facts["versions"],
        )


def compare(space: SearchSpace, answers: Answers) -> Comparison:
    """Import the reference's weights and compare every subnet.

    Raises:
        SpaceError: the checkpoint or a subnet does not fit the space.
    """
    supernet = load_ofa_checkpoint(answers.checkpoint, space_id=space.space_id)
    archs = [
        cast(_OfaSpace, space).from_ofa(**subnet["settings"], resolution=subnet["resolution"])
        for subnet in answers.subnets
    ]
    supernet_differences, extracted_differences, contrasts = [], [], []
    for arch, subnet, logits_NK in zip(archs, answers.subnets, answers.logits_SNK, strict=True):
        images_NCHW = answers.images[subnet["resolution"]]
        with torch.no_grad():
            supernet_differences.append(_difference(logits_NK, supernet(images_NCHW, arch).numpy()))
            extracted_differences.append(_difference(logits_NK, supernet.extract(arch)(images_NCHW).numpy()))
        contrasts.append(_difference(logits_NK[:1], logits_NK[1:2]))
    return Comparison(
        num_subnets=len(set(archs)),
        resolutions=tuple(sorted({subnet["resolution"] for subnet in answers.subnets})),
        supernet=max(supernet_differences),
        extracted=max(extracted_differences),
        contrast=min(contrasts),
    )


def _difference(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    return float(np.abs(a - b).max() / np.abs(a).max())


def spread_resolutions(space: SearchSpace, *, num: int) -> tuple[int, ...]:
    """Evenly spread resolutions of a space, the smallest and the largest included."""
    (choice,) = (choice for choice in space.choices if choice.kind == "resolution")
    positions = np.linspace(0, len(choice.values) - 1, num).round().astype(int)
    return tuple(int(choice.values[position]) for position in positions)


def _measure(options: argparse.Namespace, report: BenchmarkReport, space_id: str) -> list[Comparison]:
    """Compare the networks of all seeds of one space."""
    space = get_space(space_id)
    comparisons = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory(prefix="archsmith-") as directory:
            answers = ask_reference(
                options.reference_python,
                space_id,
                num_subnets=6 if options.quick else options.subnets,
                resolutions=spread_resolutions(space, num=2 if options.quick else 5),
                seed=seed,
                directory=Path(directory),
            )
            comparisons.append(compare(space, answers))
            report.note("reference", dict(answers.versions))
    return comparisons


def _record(report: BenchmarkReport, space_id: str, comparisons: Sequence[Comparison]) -> list[str]:
    """Add the figures of one space, None where it has none; returns its row of the table."""
    case = f"equivalence/{space_id}"
    supernet = max((c.supernet for c in comparisons), default=None)
    extracted = max((c.extracted for c in comparisons), default=None)
    contrast = min((c.contrast for c in comparisons), default=None)
    num_subnets = sum(c.num_subnets for c in comparisons)
    resolutions = sorted({resolution for c in comparisons for resolution in c.resolutions})
    report.add(f"{case}/supernet/max_relative_difference", supernet, at_most=LARGEST_DIFFERENCE)
    report.add(f"{case}/extracted/max_relative_difference", extracted, at_most=LARGEST_DIFFERENCE)
    report.add(f"{case}/reference/min_contrast_of_images", contrast, at_least=SMALLEST_CONTRAST)
    report.add(f"{case}/subnets", num_subnets)
    worst = ["-" if value is None else f"{value:.1e}" for value in (supernet, extracted, contrast)]
    return [space_id, str(num_subnets), ", ".join(map(str, resolutions)), *worst]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = benchmark_parser(NAME, description=__doc__)
    parser.add_argument("--reference-python", type=Path, metavar="PATH", help="interpreter with the package ofa")
    parser.add_argument("--subnets", type=int, default=52, metavar="N", help="subnets of each network [default: 52]")
    options, report = start(parser, argv)
    if options.reference_python is None:
        report.skip("equivalence", _HOW_TO_GET_IT)
        return report.finish()
    rows = []
    for space_id in OFA_SPACES:
        try:
            comparisons = _measure(options, report, space_id)
        except ModuleNotFoundError as e:
            report.skip("equivalence", f"{e}; {_HOW_TO_GET_IT}")
            return report.finish()
        except (PeerError, SpaceError) as e:
            report.say(f"{space_id} failed: {e}")
            comparisons = []
        rows.append(_record(report, space_id, comparisons))
    headings = ["space", "subnets", "resolutions", "supernet", "extracted", "contrast"]
    report.show("Worst relative difference to the reference package", headings=headings, rows=rows)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
