"""The running average by hand, its warm-up, and what a teacher's pass does and does not change."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ssss_zoo.toolkit.teachers import EMAModule, EMATeacher, PeerTeacher, SelfTeacher, ema_update_, ema_warmup, predict
from ssss_zoo.toolkit.types import Output, Progress

IMAGE = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A convolution and BatchNorm (float and integer buffers), dropout to tell the modes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm, self.drop = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Output:
        return Output(self.drop(self.norm(self.convolution(image))), image)


def network(seed: int) -> Small:
    torch.manual_seed(seed)
    made = Small()
    for tensor in made.state_dict().values():
        tensor.copy_(torch.randn(tensor.shape).abs() if tensor.is_floating_point() else torch.tensor(seed + 3))
    return made


def state(module: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(module.state_dict())


def at(step: int) -> Progress:
    return Progress(step, 100, 10)


# --- the average ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.996, 0.999, 1.0])
def test_the_average_by_hand_over_parameters_and_floating_buffers(decay):
    slow, fast = network(1), network(2)
    before, other = state(slow), state(fast)
    ema_update_(slow, fast, decay)
    for name, value in slow.state_dict().items():
        if value.is_floating_point():
            wanted = (decay * before[name].double() + (1 - decay) * other[name].double()).float()
            assert_close(value, wanted, rtol=1e-6, atol=1e-7, msg=name)
    assert any("running_var" in name for name in before)


def test_whole_numbers_are_copied_and_the_student_is_not_touched():
    slow, fast = network(1), network(2)
    other = state(fast)
    ema_update_(slow, fast, 0.9)
    assert slow.norm.num_batches_tracked.item() == 5
    for name, value in fast.state_dict().items():
        assert torch.equal(value, other[name])


def test_the_average_is_in_place_and_leaves_no_graph():
    slow, fast = network(1), network(2)
    places = [parameter.data_ptr() for parameter in slow.parameters()]
    ema_update_(slow, fast, 0.5)
    assert [parameter.data_ptr() for parameter in slow.parameters()] == places
    assert all(parameter.grad_fn is None for parameter in slow.parameters())


def test_a_decay_of_one_keeps_and_of_zero_copies_exactly():
    slow, fast = network(1), network(2)
    before = state(slow)
    ema_update_(slow, fast, 1.0)
    assert all(torch.equal(p, before[name]) for name, p in slow.named_parameters())
    ema_update_(slow, fast, 0.0)
    assert all(torch.equal(p, q) for p, q in zip(slow.parameters(), fast.parameters(), strict=True))


def test_a_network_without_floating_tensors_can_be_averaged():
    slow, fast = nn.Module(), nn.Module()
    slow.register_buffer("count", torch.tensor(1))
    fast.register_buffer("count", torch.tensor(7))
    ema_update_(slow, fast, 0.5)
    assert slow.count.item() == 7


def test_the_warm_up_copies_first_then_is_a_plain_average_until_its_cap():
    assert ema_warmup(0, 0.999) == 0
    assert ema_warmup(1, 0.999) == 0.5
    assert ema_warmup(9, 0.999) == pytest.approx(0.9)
    assert ema_warmup(998, 0.999) == pytest.approx(1 - 1 / 999)
    assert ema_warmup(999, 0.999) == pytest.approx(0.999)
    assert ema_warmup(10**6, 0.999) == 0.999
    assert ema_warmup(9, 0.5) == 0.5


def test_with_warm_up_the_teacher_is_the_mean_of_all_students_so_far():
    teacher = EMATeacher(network(0), 0.999)
    students = [network(seed) for seed in (1, 2, 3, 4)]
    for step, student in enumerate(students):
        teacher.update(student, at(step))
    mean = torch.stack([student.convolution.weight.detach() for student in students]).mean(dim=0)
    assert_close(teacher.network.convolution.weight, mean)


def test_without_warm_up_the_decay_holds_from_the_first_step():
    student, first = network(1), network(0)
    teacher = EMATeacher(first, lambda progress: 0.9)
    teacher.update(student, at(0))
    wanted = 0.9 * first.convolution.weight + 0.1 * student.convolution.weight
    assert_close(teacher.network.convolution.weight, wanted.detach())


# --- passes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("train_mode", [True, False])
def test_predict_runs_in_the_asked_mode_and_leaves_the_networks_own(training, train_mode):
    made = network(1).train(training)
    modes: list[bool] = []
    made.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    output = predict(made, IMAGE, train_mode=train_mode)
    assert modes == [train_mode]
    assert made.training == made.norm.training == training
    assert not output.logits.requires_grad


def test_predict_leaves_the_mode_when_the_network_fails():
    made = network(1).train()
    with pytest.raises(RuntimeError):
        predict(made, torch.zeros(1, 7, 3, 3), train_mode=False)
    assert made.training


def test_the_running_average_labels_in_evaluation_mode_with_its_own_statistics():
    student = network(1)
    teacher = EMATeacher(student, 0.9)
    before = state(teacher.network)
    made = teacher(IMAGE).logits
    assert_close(made, predict(student, IMAGE, train_mode=False).logits)
    assert all(torch.equal(value, before[name]) for name, value in teacher.network.state_dict().items())
    assert teacher.reads_from is None


def test_the_running_average_can_label_with_the_batchs_statistics():
    teacher, same = EMATeacher(network(1), 0.9, train_mode=True), network(1)
    torch.manual_seed(0)
    made = teacher(IMAGE).logits
    torch.manual_seed(0)
    assert_close(made, predict(same, IMAGE, train_mode=True).logits)
    assert teacher.network.norm.num_batches_tracked.item() == 5  # one more batch seen
    assert not teacher.network.training


def test_a_teacher_of_its_own_weights_starts_as_a_copy_without_gradient():
    student = network(1)
    for teacher in (EMATeacher(student, 0.9),):
        assert teacher.network is not student
        assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
        assert all(parameter.requires_grad for parameter in student.parameters())
        assert not teacher.network.training
        with torch.no_grad():
            student.convolution.weight.add_(1)
        assert not torch.equal(teacher.network.convolution.weight, student.convolution.weight)


def test_a_peer_labels_in_train_mode_and_keeps_learning_elsewhere():
    peer, same = network(1).train(), network(1)
    teacher = PeerTeacher(peer)
    torch.manual_seed(0)
    made = teacher(IMAGE).logits
    torch.manual_seed(0)
    assert_close(made, predict(same, IMAGE, train_mode=True).logits)
    assert peer.norm.num_batches_tracked.item() == 5
    before = state(peer)
    teacher.update(network(2), at(0))
    assert all(torch.equal(value, before[name]) for name, value in peer.state_dict().items())
    assert teacher.network is None
    assert teacher.reads_from is None


def test_a_student_that_labels_for_itself_does_so_in_evaluation_mode_and_stays_in_train_mode():
    student = network(1).train()
    teacher = SelfTeacher(student)
    before = state(student)
    first, second = teacher(IMAGE).logits, teacher(IMAGE).logits
    assert torch.equal(first, second)  # no dropout
    assert student.training
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert teacher.network is None
    assert teacher.reads_from is None
    assert SelfTeacher(student, shares_pass=True).reads_from is student
    teacher.update(student, at(0))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_what_a_teacher_is_unless_it_says_otherwise():
    """It speaks for the run, and averages BatchNorm's statistics too."""
    student, teacher = network(1), EMATeacher(network(0), lambda progress: 0.5)
    before = teacher.network.norm.running_mean.clone()
    teacher.update(student, Progress(0, 10, 5))
    assert_close(teacher.network.norm.running_mean, 0.5 * (before + student.norm.running_mean))
    assert teacher.is_result
    assert SelfTeacher(student).is_result
    assert PeerTeacher(student).is_result


# --- the average of another module ----------------------------------------------------------------------------------


@pytest.mark.parametrize("buffers", [True, False])
@pytest.mark.parametrize("decay", [0.999, lambda progress: 0.7])
def test_the_average_of_a_module_follows_bit_by_bit_as_a_teacher_does(decay, buffers):
    teacher = EMATeacher(network(0), decay, buffers=buffers)
    average = EMAModule(network(0), decay, buffers=buffers)
    for step, seed in enumerate((1, 2, 3)):
        teacher.update(network(seed), at(step))
        average.update(network(seed), at(step))
    for name, value in average.average.state_dict().items():
        assert torch.equal(value, teacher.network.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in average.parameters())


@pytest.mark.parametrize("train_mode", [True, False])
def test_the_average_of_a_module_runs_in_its_own_mode_without_gradient_and_is_saved(train_mode):
    layers = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    average, same = EMAModule(layers, 0.9, train_mode=train_mode), copy.deepcopy(layers).train(train_mode)
    for mode in (True, False):
        average.train(mode)  # whatever mode the run puts its modules into
        output = average(IMAGE)
        assert not output.requires_grad
        assert torch.equal(output, same(IMAGE).detach())
    assert set(average.state_dict()) == {f"average.{name}" for name in layers.state_dict()}
