"""What workers derive alike from seed and step: rates, subnets, shards, seeds of layers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.errors import TrainingError
from nas.training.schedules import cosine_rate, layer_seed, open_subnets, sandwich_subnets, shard_batches
from tests.nas.tiny_run import SPACE

OPENED = {"kernel": 2, "depth": 2, "expand": 1}


def shards(rank: int, *, world_size: int, num: int = 103, batch: int = 12, epoch: int = 0) -> list[list[int]]:
    batches = shard_batches(num, batch_size=batch, seed=3, epoch=epoch, rank=rank, world_size=world_size)
    return [positions.tolist() for positions in batches]


def test_the_rate_warms_up_to_its_peak_and_falls_to_zero() -> None:
    rates = [cosine_rate(step, peak=0.5, warmup_steps=4, num_steps=20) for step in range(21)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4] == 0.5
    assert rates[12] == pytest.approx(0.25)
    assert rates[20] == pytest.approx(0.0, abs=1e-12)
    assert sorted(rates[4:], reverse=True) == rates[4:]


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert cosine_rate(0, peak=0.5, warmup_steps=0, num_steps=1) == 0.5


@given(st.integers(1, 50), st.integers(0, 60), st.data())
def test_every_rate_lies_between_zero_and_the_peak(num_steps: int, warmup_steps: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, num_steps - 1))
    assert 0.0 < cosine_rate(step, peak=0.1, warmup_steps=warmup_steps, num_steps=num_steps) <= 0.1


def test_the_sandwich_is_the_largest_random_ones_and_the_smallest() -> None:
    for num in (0, 1, 3):
        subnets = sandwich_subnets(SPACE, OPENED, seed=1, step=5, num_random=num)
        assert len(subnets) == num + 2
        assert subnets[0] == SPACE.largest
        assert {gene for gene, value in subnets[-1].genes if value != SPACE.smallest[gene]} <= {"resolution"}
        for arch in subnets:
            SPACE.validate(arch)


def test_seed_and_step_alone_decide_the_subnets() -> None:
    again = sandwich_subnets(SPACE, OPENED, seed=1, step=5, num_random=3)
    assert sandwich_subnets(SPACE, OPENED, seed=1, step=5, num_random=3) == again
    assert sandwich_subnets(SPACE, OPENED, seed=1, step=6, num_random=3) != again
    assert sandwich_subnets(SPACE, OPENED, seed=2, step=5, num_random=3) != again


def test_all_resolutions_are_trained() -> None:
    steps = [sandwich_subnets(SPACE, OPENED, seed=0, step=step, num_random=2) for step in range(20)]
    for number, trained in ((0, {12}), (1, {8, 12}), (2, {8, 12}), (-1, {8, 12})):
        assert {int(subnets[number]["resolution"]) for subnets in steps} == trained


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 60), st.integers(0, 5))
def test_the_shards_of_a_step_are_disjoint_and_cover_its_batch(
    world_size: int, per_worker: int, spare: int, epoch: int
) -> None:
    batch = world_size * per_worker
    num = batch + spare
    ranks = [shards(rank, world_size=world_size, num=num, batch=batch, epoch=epoch) for rank in range(world_size)]
    alone = shards(0, world_size=1, num=num, batch=batch, epoch=epoch)
    assert {len(batches) for batches in ranks} == {num // batch}
    for step, whole in enumerate(alone):
        parts = [position for batches in ranks for position in batches[step]]
        assert len(parts) == batch
        assert set(parts) == set(whole)
        assert {len(batches[step]) for batches in ranks} == {per_worker}
    seen = [position for positions in alone for position in positions]
    assert len(seen) == len(set(seen)) == num // batch * batch
    assert set(seen) <= set(range(num))


def test_every_epoch_is_shuffled_anew() -> None:
    assert shards(0, world_size=1, epoch=0) == shards(0, world_size=1, epoch=0)
    assert shards(0, world_size=1, epoch=0) != shards(0, world_size=1, epoch=1)
    assert shards(0, world_size=1)[0] != sorted(shards(0, world_size=1)[0])


@pytest.mark.parametrize(("num", "batch", "world_size"), [(11, 12, 1), (0, 1, 1), (100, 10, 3)])
def test_a_batch_that_does_not_fit_is_refused(num: int, batch: int, world_size: int) -> None:
    with pytest.raises(TrainingError, match=f"a batch of {batch} images does not fit {num}") as caught:
        shards(0, world_size=world_size, num=num, batch=batch)
    assert "train.batch_size" in caught.value.hint


def test_open_subnets_use_open_values_alone_and_share_the_input() -> None:
    resolutions, depths = set(), set()
    for step in range(30):
        subnets = open_subnets(SPACE, OPENED, seed=1, step=step, num=3)
        assert len(subnets) == 3
        assert len({SPACE.input_shape(arch) for arch in subnets}) == 1
        resolutions.add(SPACE.input_shape(subnets[0]))
        for arch in subnets:
            SPACE.validate(arch)
            genes = dict(arch.genes)
            assert {genes[name] for name in genes if name.endswith("expand")} == {3}
            depths |= {genes[name] for name in genes if name.endswith("depth")}
    assert resolutions == {(1, 8, 8), (1, 12, 12)}
    assert depths == {1, 2}


def test_with_everything_closed_an_open_subnet_is_the_largest_at_the_input_of_the_step() -> None:
    closed = dict.fromkeys(OPENED, 1)
    for step in range(10):
        (teacher,) = open_subnets(SPACE, closed, seed=1, step=step, num=1)
        (student, *_) = open_subnets(SPACE, OPENED, seed=1, step=step, num=4)
        assert SPACE.input_shape(teacher) == SPACE.input_shape(student)
        different = {name for name, value in teacher.genes if value != SPACE.largest[name]}
        assert different <= {"resolution"}


def test_seed_step_and_number_alone_decide_the_open_subnets() -> None:
    three = open_subnets(SPACE, OPENED, seed=1, step=5, num=3)
    assert open_subnets(SPACE, OPENED, seed=1, step=5, num=3) == three
    assert open_subnets(SPACE, OPENED, seed=1, step=5, num=2) == three[:2]
    assert open_subnets(SPACE, OPENED, seed=1, step=6, num=3) != three
    assert open_subnets(SPACE, OPENED, seed=2, step=5, num=3) != three


def test_random_layers_have_another_seed_at_each_step_and_on_each_worker() -> None:
    seeds = {layer_seed(seed=s, step=n, rank=r) for s in range(3) for n in range(3) for r in range(3)}
    assert len(seeds) == 27
    assert layer_seed(seed=1, step=2, rank=0) == layer_seed(seed=1, step=2, rank=0)
