"""The gradients of one step, and the losses that make them."""

from dataclasses import replace

import pytest
import torch

from nas.training.distillation import distillation_loss, label_loss, progressive_loss, student_loss
from nas.training.phases import Phase, phases_of
from nas.training.schedules import open_subnets, sandwich_subnets
from nas.training.settings import TrainSettings
from nas.training.steps import StepBatch, SubnetSteps, frozen_copy
from searchspaces.elastic.supernet import Supernet
from tests.nas.tiny_run import fresh_supernet
from tests.nas.training.gloo_child import ONE_EPOCH, PROGRESSIVE, SMALL, noise_images, one_stage

DATA = noise_images()
CPU = torch.device("cpu")
LAST = phases_of(SMALL, PROGRESSIVE)[-1]
TEACHER = phases_of(SMALL, PROGRESSIVE)[0]


def batch(*, step: int = 3) -> StepBatch:
    return StepBatch(inputs=DATA.train.inputs[:8], labels_N=DATA.train.labels_N[:8], step=step, rank=0)


def steps_of(supernet: Supernet, settings: TrainSettings) -> SubnetSteps:
    supernet.train()
    return SubnetSteps(supernet, preprocessing=DATA.preprocessing, settings=settings, device=CPU)


def gradients(supernet: Supernet) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in supernet.named_parameters() if p.grad is not None}


def inputs_of(supernet: Supernet, arch: object) -> torch.Tensor:
    return DATA.preprocessing.prepare(batch().inputs, shape=supernet.space.input_shape(arch))  # type: ignore[arg-type]


def test_the_gradient_of_a_sandwich_is_the_sum_over_its_subnets() -> None:
    supernet = fresh_supernet(space=SMALL)
    (phase,) = phases_of(SMALL, ONE_EPOCH)
    found = steps_of(supernet, ONE_EPOCH).backward(phase, batch())
    summed = gradients(supernet)

    supernet.zero_grad()
    largest, *others = sandwich_subnets(SMALL, phase.opened, seed=0, step=3, num_random=1)
    logits_NC = supernet(inputs_of(supernet, largest), largest)
    labels_N = batch().labels_N
    losses = [label_loss(logits_NC, labels_N, smoothing=0.0)] + [
        student_loss(
            supernet(inputs_of(supernet, arch), arch),
            labels_N,
            teacher_logits_NC=logits_NC,
            distillation=0.5,
            smoothing=0.0,
        )
        for arch in others
    ]
    torch.stack(losses).sum().backward()
    expected = gradients(supernet)
    assert set(summed) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-4, atol=1e-6)
    assert found["loss_largest"] == pytest.approx(losses[0].item())
    assert found["loss_smallest"] == pytest.approx(losses[-1].item())
    assert found["loss"] == pytest.approx(sum(loss.item() for loss in losses) / 3)


def test_looking_at_the_extremes_learns_nothing_and_draws_nothing() -> None:
    supernet = fresh_supernet(space=SMALL)
    steps = steps_of(supernet, PROGRESSIVE)
    before = torch.random.get_rng_state()
    found = steps.extremes(LAST, batch())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in supernet.parameters())
    labels_N = batch().labels_N
    for name, arch in (("largest", SMALL.largest), ("smallest", SMALL.smallest)):
        with torch.no_grad():
            logits_NC = supernet(inputs_of(supernet, arch), arch)
        expected = label_loss(logits_NC, labels_N, smoothing=PROGRESSIVE.label_smoothing)
        assert found[f"loss_{name}"] == pytest.approx(expected.item())


def test_the_gradient_of_a_progressive_step_is_the_sum_over_its_subnets() -> None:
    supernet = fresh_supernet(space=SMALL)
    settings = replace(PROGRESSIVE, distillation=0.7, label_smoothing=0.1)
    steps = steps_of(supernet, settings)
    steps.teacher = frozen_copy(fresh_supernet(seed=5, space=SMALL))
    found = steps.backward(LAST, batch())
    summed = gradients(supernet)
    assert set(found) == {"loss"}

    supernet.zero_grad()
    archs = open_subnets(SMALL, LAST.opened, seed=0, step=3, num=4)
    x = inputs_of(supernet, archs[0])
    largest = SMALL.architecture({**dict(SMALL.largest.genes), "resolution": archs[0]["resolution"]})
    teacher_NC = steps.teacher(x, largest)
    losses = [
        progressive_loss(
            supernet(x, arch), batch().labels_N, teacher_logits_NC=teacher_NC, distillation=0.7, smoothing=0.1
        )
        for arch in archs
    ]
    torch.stack(losses).sum().backward()
    expected = gradients(supernet)
    assert set(summed) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(summed[name], gradient, rtol=1e-4, atol=1e-6)
    assert found["loss"] == pytest.approx(sum(loss.item() for loss in losses) / 4)


def test_the_progressive_loss_is_the_labels_and_the_teacher_on_top() -> None:
    torch.manual_seed(0)
    logits_NC, teacher_NC, labels_N = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    labels = torch.nn.functional.cross_entropy(logits_NC, labels_N, label_smoothing=0.1)
    soft = -(teacher_NC.softmax(dim=1) * logits_NC.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(distillation_loss(logits_NC, teacher_NC), soft)
    for weight in (1.0, 0.3, 0.0):
        found = progressive_loss(logits_NC, labels_N, teacher_logits_NC=teacher_NC, distillation=weight, smoothing=0.1)
        torch.testing.assert_close(found, labels + weight * soft)
    mixed = student_loss(logits_NC, labels_N, teacher_logits_NC=teacher_NC, distillation=0.3, smoothing=0.1)
    torch.testing.assert_close(mixed, 0.7 * labels + 0.3 * soft)


def test_the_teacher_learns_nothing_and_normalises_by_the_batch() -> None:
    supernet = fresh_supernet(space=SMALL)
    teacher = frozen_copy(supernet.eval())
    assert teacher.training
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    steps = steps_of(supernet, PROGRESSIVE)
    steps.teacher = teacher
    steps.backward(LAST, batch())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not {p.data_ptr() for p in teacher.parameters()} & {p.data_ptr() for p in supernet.parameters()}


def test_the_phase_of_the_teacher_needs_none() -> None:
    supernet = fresh_supernet(space=SMALL)
    found = steps_of(supernet, PROGRESSIVE).backward(TEACHER, batch())
    (arch,) = open_subnets(SMALL, TEACHER.opened, seed=0, step=3, num=1)
    expected = label_loss(supernet(inputs_of(supernet, arch), arch), batch().labels_N, smoothing=0.0)
    assert found["loss"] == pytest.approx(expected.item())


@pytest.mark.parametrize("phase", [LAST, TEACHER], ids=["progressive", "teacher"])
def test_losses_are_computed_in_float32_under_mixed_precision(phase: Phase) -> None:
    """Weights, gradients and losses keep float32; the forward pass gives bfloat16, near the other result."""
    results = {}
    for precision in ("fp32", "bf16"):
        supernet = fresh_supernet(space=SMALL)
        seen: list[torch.dtype] = []
        supernet.register_forward_hook(lambda module, args, output, seen=seen: seen.append(output.dtype))
        steps = steps_of(supernet, replace(PROGRESSIVE, precision=precision))
        steps.teacher = frozen_copy(fresh_supernet(seed=5, space=SMALL))
        results[precision] = steps.backward(phase, batch())["loss"]
        assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}
        assert {gradient.dtype for gradient in gradients(supernet).values()} == {torch.float32}
    assert results["fp32"] != results["bf16"]
    assert results["bf16"] == pytest.approx(results["fp32"], rel=0.02)


def test_dropout_follows_step_and_rank() -> None:
    space = one_stage(dropout=0.5)
    (phase,) = phases_of(space, ONE_EPOCH)
    steps = steps_of(fresh_supernet(space=space), ONE_EPOCH)

    def loss(*, rank: int) -> float:
        return steps.backward(phase, replace(batch(), rank=rank))["loss"]

    assert loss(rank=0) == loss(rank=0) != loss(rank=1)
