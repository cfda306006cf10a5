"""Imported weights compute what the once-for-all reference package computes, as golden answers of it tell.

The whole proof (every space, more than 50 subnets) is `python -m experiments.benchmarks.ofa_equivalence`; it needs the
package. Here weights, images and subnets are fixed; golden/ofa_reference.json was made by `make_ofa_golden.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from searchspaces import get_space
from searchspaces.ofa_keys import OFA_SPACES, ofa_keys, plain_key
from searchspaces.ofa_mbconv import OfaMBConvSpace
from searchspaces.ofa_resnet50d import ResNet50DSpace
from tests.searchspaces.ofa_formula import formula_images, formula_tensor

GOLDEN: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "golden" / "ofa_reference.json").read_text(encoding="utf-8")
)["spaces"]
TOLERANCE = 1e-4


@pytest.mark.parametrize("space_id", OFA_SPACES)
def test_supernet_and_extracted_networks_answer_as_the_reference_package(space_id: str) -> None:
    space = get_space(space_id)
    assert isinstance(space, OfaMBConvSpace | ResNet50DSpace)
    answers = GOLDEN[space_id]
    supernet = space.build_supernet(num_classes=len(answers[0]["logits"][0])).eval()
    state = supernet.state_dict()
    for ours, theirs in ofa_keys(state, space_id=space_id).items():
        state[ours].copy_(formula_tensor(plain_key(theirs), state[ours].shape))
    for answer in answers:
        arch = space.from_ofa(**answer["settings"], resolution=answer["resolution"])
        images_NCHW = formula_images(answer["resolution"])
        golden_NK = torch.tensor(answer["logits"])
        with torch.no_grad():
            for logits_NK in (supernet(images_NCHW, arch), supernet.extract(arch)(images_NCHW)):
                assert (logits_NK - golden_NK).abs().max() <= TOLERANCE * golden_NK.abs().max()
        # The answers depend on the images far more than the tolerance allows.
        assert (golden_NK[0] - golden_NK[1]).abs().max() > 100 * TOLERANCE * golden_NK.abs().max()
