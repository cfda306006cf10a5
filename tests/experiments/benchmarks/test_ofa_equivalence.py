"""The comparison with the once-for-all reference package, without that package."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmarks.ofa_equivalence import (
    LARGEST_DIFFERENCE,
    Answers,
    compare,
    main,
    spread_resolutions,
)
from searchspaces import get_space
from searchspaces.ofa_keys import ofa_keys
from searchspaces.ofa_mbconv import OfaMBConvSpace

SPACE_ID = "ofa-mobilenetv3-w1.0"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """What a reference would answer that computes as we do."""
    space = get_space(SPACE_ID)
    assert isinstance(space, OfaMBConvSpace)
    torch.manual_seed(0)
    supernet = space.build_supernet(num_classes=7).eval()
    images = {r: torch.randn(2, 3, r, r, generator=torch.Generator().manual_seed(r)) for r in (128, 132)}
    subnets, logits = [], []
    for arch in (space.smallest, space.architecture({**space.complete_genes(space.smallest), "resolution": 132})):
        settings = dict(space.to_ofa(arch))
        resolution = settings.pop("resolution")
        assert isinstance(resolution, int)
        subnets.append({"settings": settings, "resolution": resolution})
        with torch.no_grad():
            logits.append(supernet(images[resolution], arch).numpy())
    state = supernet.state_dict()
    path = tmp_path_factory.mktemp("reference") / "checkpoint.pth"
    torch.save({theirs: state[ours] for ours, theirs in ofa_keys(state, space_id=SPACE_ID).items()}, path)
    return Answers(checkpoint=path, subnets=subnets, logits_SNK=np.stack(logits), images=images, versions={})


def test_equal_weights_give_equal_answers(answers: Answers) -> None:
    comparison = compare(get_space(SPACE_ID), answers)
    assert comparison.num_subnets == 2
    assert comparison.resolutions == (128, 132)
    assert comparison.supernet <= 1e-5
    assert comparison.extracted <= 1e-5


@pytest.mark.parametrize("subnet", [0, 1])
def test_one_wrong_answer_is_seen(subnet: int, answers: Answers) -> None:
    logits_SNK = answers.logits_SNK.copy()
    logits_SNK[subnet, 1, 3] += 1e-3 * np.abs(logits_SNK[subnet]).max()
    comparison = compare(get_space(SPACE_ID), replace(answers, logits_SNK=logits_SNK))
    assert comparison.supernet > LARGEST_DIFFERENCE
    assert comparison.extracted > LARGEST_DIFFERENCE


def test_resolutions_are_spread_from_the_smallest_to_the_largest() -> None:
    assert spread_resolutions(get_space(SPACE_ID), num=5) == (128, 152, 176, 200, 224)
    assert spread_resolutions(get_space("ofa-resnet50d"), num=2) == (128, 256)


def test_without_a_reference_interpreter_the_part_is_skipped_with_a_line_that_helps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--out", str(tmp_path / "out.json")]) == 0
    assert "pip install ofa==" in " ".join(capsys.readouterr().out.split())
    assert json.loads((tmp_path / "out.json").read_text())["figures"] == {}


@pytest.mark.skipif(importlib.util.find_spec("ofa") is not None, reason="this interpreter has the reference package")
def test_an_interpreter_without_the_package_is_told_and_fails_under_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--reference-python", sys.executable, "--quick", "--strict", "--out", str(tmp_path / "out.json")]
    assert main(arguments) == 1
    assert "No module named 'ofa'" in capsys.readouterr().out


def test_an_interpreter_that_does_not_start_misses_every_target(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "no" / "python"
    assert main(["--reference-python", str(gone), "--quick", "--out", str(tmp_path / "out.json")]) == 0
    assert "does not start" in capsys.readouterr().out
    targets = json.loads((tmp_path / "out.json").read_text())["targets"]
    assert len(targets) == 12
    assert not any(target["met"] for target in targets.values())
