"""Makes golden/ofa_reference.json with the once-for-all reference package; run it with an interpreter that has that.

PYTHONPATH=. ofa_env/bin/python -m tests.searchspaces.make_ofa_golden > tests/searchspaces/golden/ofa_reference.json
"""

import json
import random
import sys
from importlib.metadata import version
from typing import Any

import torch

from experiments.benchmarks.peers.ofa_reference import NETWORKS, reference_network, subnet_settings
from searchspaces.ofa_keys import plain_key
from tests.searchspaces.ofa_formula import formula_images, formula_tensor

_CLASSES = 6
_SUBNETS = (1, 2, 3)  # the smallest and two random ones: the largest amplifies rounding errors under the formula
_RESOLUTIONS = (128, 144, 160)


def _golden(network: Any) -> list[dict[str, Any]]:
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if not key.endswith("num_batches_tracked"):
                tensor.copy_(formula_tensor(plain_key(key), tensor.shape))
        # In double precision, so that the answers carry no rounding errors of their own.
        network.double().eval()
        answers = []
        for number, resolution in zip(_SUBNETS, _RESOLUTIONS, strict=True):
            settings = subnet_settings(network, number=number)
            network.set_active_subnet(**settings)
            logits_NK = network(formula_images(resolution).double())
            rounded = [[float(f"{logit:.7g}") for logit in logits_K] for logits_K in logits_NK.tolist()]
            answers.append({"settings": settings, "resolution": resolution, "logits": rounded})
    return answers


if __name__ == "__main__":
    random.seed(0)
    golden = {space_id: _golden(reference_network(space_id, n_classes=_CLASSES)) for space_id in NETWORKS}
    versions = {package: version(package) for package in ("ofa", "torch")}
    # One line a space: the file is data, a diff of it should be short.
    lines = [f"  {json.dumps(space_id)}: {json.dumps(answers)}" for space_id, answers in golden.items()]
    sys.stdout.write(f'{{"versions": {json.dumps(versions)}, "spaces": {{\n' + ",\n".join(lines) + "\n}}\n")
