"""The size and speed of a network, by hand where they can be, and what shares a measurement."""

import torch

from ssss_zoo.config.schema import EvaluateConfig, ModelConfig
from ssss_zoo.evaluation.evaluator import Predictor
from ssss_zoo.evaluation.network_cost import cost_key, count_flops, images_per_second, measure_network_cost
from ssss_zoo.testing.tiny import TinyNet

CPU = torch.device("cpu")
WHOLE = Predictor(EvaluateConfig(), (16, 16))


def network(classes=5):
    return TinyNet(ModelConfig(), classes).eval()


def test_parameters_and_operations_by_hand():
    cost = measure_network_cost(network(), WHOLE, (3, 8, 16), CPU, "cpu")
    convolutions = [(3 * 9, 6, 4 * 8), (6 * 9, 8, 2 * 4), (14 * 9, 8, 4 * 8), (8, 5, 4 * 8)]  # inputs, outputs, pixels
    assert cost.flops == sum(2 * inputs * outputs * pixels for inputs, outputs, pixels in convolutions)
    weights = sum(inputs * outputs + outputs for inputs, outputs, _ in convolutions)
    assert cost.parameters == weights + 2 * (6 + 8 + 8)  # with scale and shift of each BatchNorm
    assert (cost.height, cost.width, cost.device) == (8, 16, "cpu")
    assert cost.best_images_per_second >= cost.images_per_second > 0
    assert cost.best_batch in (1, 2, 4, 8, 16, 32, 64)


def test_windows_that_overlap_cost_more_than_the_whole_image():
    windows = Predictor(EvaluateConfig(mode="sliding", window=[8], stride=[4]), (16, 16))
    net, image = network(), torch.rand(1, 3, 8, 16)
    assert count_flops(net, windows, image) == 3 * count_flops(net, WHOLE, image[..., :8])


def test_larger_batches_are_tried_until_they_do_not_fit_into_memory():
    net = network()

    def forward(image):
        if len(image) > 2:
            raise MemoryError
        return type(net).forward(net, image)

    net.forward = forward
    assert set(dict(images_per_second(net, WHOLE, (3, 8, 8), CPU))) <= {1, 2}


def test_only_networks_of_one_architecture_size_and_device_share_a_measurement():
    key = cost_key(network(), WHOLE, (3, 8, 8), "cpu")
    assert key == cost_key(network(), WHOLE, (3, 8, 8), "cpu")
    other_windows = Predictor(EvaluateConfig(mode="sliding", window=[8]), (16, 16))
    others = {
        cost_key(network(classes=4), WHOLE, (3, 8, 8), "cpu"),
        cost_key(network(), WHOLE, (3, 8, 16), "cpu"),
        cost_key(network(), WHOLE, (3, 8, 8), "cuda: H100"),
        cost_key(network(), other_windows, (3, 8, 8), "cpu"),
    }
    assert len({key, *others}) == 5
