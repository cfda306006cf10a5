"""Candidates: their key, and their weights on disk."""

from pathlib import Path

import pytest
import torch

from nas.candidate import Candidate, inherited_candidate
from nas.candidate_store import CandidateStore
from nas.data import DataSplits
from nas.errors import CheckpointError
from tests.nas.tiny_run import NUM_CLASSES, SPACE, TinyRun, fresh_supernet, make_judge


@pytest.fixture
def store(tmp_path: Path) -> CandidateStore:
    return CandidateStore(tmp_path / "candidates", space=SPACE, num_classes=NUM_CLASSES)


def candidate_of_checkpoint(checkpoint_sha256: str = "c" * 64, recalibration: str = "bn 128 images") -> Candidate:
    return inherited_candidate(SPACE.smallest, checkpoint_sha256=checkpoint_sha256, recalibration=recalibration)


def test_a_candidate_comes_back_from_its_row() -> None:
    for kind in ("inherited", "fine-tuned"):
        candidate = Candidate(architecture=SPACE.largest, weights="0123456789abcdef", weights_kind=kind)
        assert Candidate.from_row(candidate.row()) == candidate


def test_the_id_names_architecture_weights_and_precision() -> None:
    candidate = Candidate(architecture=SPACE.largest, weights="0123456789abcdef", weights_kind="fine-tuned")
    assert candidate.candidate_id == f"{SPACE.largest.arch_id}-01234567-fp32"


def test_other_weights_or_statistics_make_another_candidate() -> None:
    ids = {
        candidate_of_checkpoint().candidate_id,
        candidate_of_checkpoint(checkpoint_sha256="d" * 64).candidate_id,
        candidate_of_checkpoint(recalibration="bn 256 images").candidate_id,
    }
    assert len(ids) == 3
    assert candidate_of_checkpoint() == candidate_of_checkpoint()


def test_stored_weights_compute_the_same_bit_for_bit(store: CandidateStore, trained: TinyRun, data: DataSplits) -> None:
    network = make_judge(trained.supernet(), data).network(SPACE.largest)
    candidate = inherited_candidate(SPACE.largest, checkpoint_sha256="c", recalibration="r")
    assert not store.has(candidate)
    store.save(candidate, network)
    assert store.has(candidate)
    x_NCHW = data.preprocessing.prepare(data.search.inputs[:32], shape=SPACE.input_shape(SPACE.largest))
    loaded = store.load(candidate)
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(x_NCHW), network(x_NCHW))


def test_fine_tuned_candidates_are_named_after_their_weights(store: CandidateStore, tmp_path: Path) -> None:
    supernet = fresh_supernet()
    network = supernet.extract(SPACE.smallest)
    first = store.save_trained(SPACE.smallest, network)
    assert first.weights_kind == "fine-tuned"
    assert store.save_trained(SPACE.smallest, network) == first
    with torch.no_grad():
        next(network.parameters()).add_(1.0)
    second = store.save_trained(SPACE.smallest, network)
    assert second.candidate_id != first.candidate_id
    assert sorted(path.name for path in (tmp_path / "candidates").iterdir()) == sorted(
        [first.candidate_id, second.candidate_id]
    )


def test_missing_weights_are_refused_with_their_name(store: CandidateStore) -> None:
    candidate = candidate_of_checkpoint()
    with pytest.raises(CheckpointError, match=candidate.candidate_id) as caught:
        store.load(candidate)
    assert caught.value.hint


def test_damaged_weights_are_refused_with_the_name_of_the_file(store: CandidateStore) -> None:
    candidate = candidate_of_checkpoint()
    store.save(candidate, fresh_supernet().extract(SPACE.smallest))
    path = store.path(candidate) / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=str(path)):
        store.load(candidate)


def test_weights_of_another_architecture_are_refused(store: CandidateStore) -> None:
    candidate = candidate_of_checkpoint()
    store.save(candidate, fresh_supernet().extract(SPACE.largest))
    with pytest.raises(CheckpointError, match=f"do not fit architecture {SPACE.smallest.arch_id}"):
        store.load(candidate)


def test_weights_without_a_manifest_do_not_count(store: CandidateStore) -> None:
    candidate = candidate_of_checkpoint()
    store.save(candidate, fresh_supernet().extract(SPACE.smallest))
    (store.path(candidate) / "manifest.json").unlink()
    assert not store.has(candidate)
    with pytest.raises(CheckpointError, match="never finished"):
        store.load(candidate)
