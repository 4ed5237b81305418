"""The moving average equals that of its definition, tensor by tensor, and goes on where it was saved."""

import torch
from torch import nn

from medarts.training.averaging import MovingAverage


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).double()


def step(module: nn.Module, number: int) -> None:
    """Moves every weight, and the running statistics."""
    generator = torch.Generator().manual_seed(number)
    module(torch.rand(2, 2, 4, 4, generator=generator).double())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.rand(parameter.shape, generator=generator))


def test_it_is_the_average_of_its_definition() -> None:
    module = network()
    average, expected = MovingAverage(module, decay=0.3), {}
    for number in range(6):
        step(module, number)
        average.update_parameters(module)
        decay = min(0.3, (1 + number) / (10 + number)) if number else 0.0
        for name, tensor in module.state_dict().items():
            new = decay * expected.get(name, 0) + (1 - decay) * tensor
            expected[name] = new if tensor.is_floating_point() else tensor.clone()
    for name, tensor in average.module.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-12, atol=1e-12)
    assert expected["1.num_batches_tracked"] == 6


def test_one_that_was_saved_goes_on_to_the_same_bits() -> None:
    module = network()
    whole = MovingAverage(module, decay=0.9)
    for number in range(3):
        step(module, number)
        whole.update_parameters(module)
    again = MovingAverage(network(), decay=0.9)
    again.load_state_dict(whole.state_dict())
    for number in range(3, 6):
        step(module, number)
        whole.update_parameters(module)
        again.update_parameters(module)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
