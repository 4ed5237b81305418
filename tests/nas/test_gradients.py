"""The gradients of the architecture against exact ones, and what they leave behind."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from medarts.nas.gradients import Objective, first_order
from medarts.registry import gradients
from medarts.spaces.base import Supernet
from medarts.spaces.darts import DartsSettings
from medarts.spaces.darts import supernet as darts
from medarts.spaces.darts.supernet import DartsSupernet
from medarts.spaces.nas_wdan import supernet as nas_wdan
from medarts.spaces.nas_wdan.settings import LatticeSettings
from medarts.spaces.nas_wdan.supernet import NasWdanSupernet

FABRIC = Fabric(accelerator="cpu", devices=1)
SGD = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.02}
OPERATIONS: tuple[Callable[[Tensor], Tensor], ...] = (torch.tanh, torch.sin, torch.sigmoid)


class Mixture(nn.Module):
    """Two layers, each with a softmax over three smooth functions; the last weight and alpha are never used."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))

        self.layers = nn.ParameterList([parameter(4, 6), parameter(6, 2)])
        self.bias = parameter(6)
        self.unused = parameter(5)
        self.alphas = nn.ParameterList([parameter(3), parameter(3), parameter(3)])

    @property
    def weights(self) -> list[nn.Parameter]:
        return [*self.layers, self.bias, self.unused]

    @property
    def architecture(self) -> list[nn.Parameter]:
        return list(self.alphas)


def loss_of(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Returns the mixture's loss as a function of its parameters by name, summed over the images."""
    h = x @ parameters["layers.0"] + parameters["bias"]
    h = mixed(h, parameters["alphas.0"]) @ parameters["layers.1"]
    return (mixed(h, parameters["alphas.1"]) - y).square().sum() / 8


def mixed(x: Tensor, alpha: Tensor) -> Tensor:
    return torch.stack([w * f(x) for w, f in zip(torch.softmax(alpha, 0), OPERATIONS, strict=True)]).sum(0)


class Problem:
    """The mixture with batches of eight, and SGD after ``steps`` steps."""

    def __init__(self, *, steps: int = 2, parts: int = 1, **options: Any) -> None:
        generator = torch.Generator().manual_seed(5)
        self.batches = {
            name: (torch.randn(8, 4, generator=generator).double(), torch.randn(8, 2, generator=generator).double())
            for name in ("training", "validation")
        }
        self.parts = parts
        self.calls: list[str] = []
        self.model = Mixture()
        self.optimizer: Any = torch.optim.SGD(self.model.weights, **{**SGD, **options})
        for _ in range(steps):
            self.optimizer.zero_grad()
            first_order(FABRIC, self.objective("training"), held=self.model.architecture)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.calls.clear()

    def objective(self, name: str) -> Objective:
        def losses() -> Iterator[Tensor]:
            self.calls.append(name)
            x, y = self.batches[name]
            for part in zip(x.chunk(self.parts), y.chunk(self.parts), strict=True):
                yield loss_of(dict(self.model.named_parameters()), *part)

        return losses

    def gradient(self, name: str = "second_order", **objectives: Objective) -> float:
        return gradients.get(name)(
            FABRIC,
            training=objectives.get("training", self.objective("training")),
            validation=objectives.get("validation", self.objective("validation")),
            weights=self.model.weights,
            architecture=self.model.architecture,
            optimizer=self.optimizer,
        )

    def found(self, name: str = "second_order") -> Tensor:
        self.gradient(name)
        return flat(self.model.architecture)

    def exact(self) -> tuple[float, Tensor]:
        """Returns loss and gradient by autograd through one step of SGD, written out from its definition."""
        parameters: dict[str, Tensor] = dict(self.model.named_parameters())
        weights = {name: p for name, p in parameters.items() if not name.startswith("alphas")}
        (group,) = self.optimizer.param_groups
        loss = loss_of(parameters, *self.batches["training"])
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
        after = dict(parameters)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
            if gradient is not None:
                buffer = self.optimizer.state.get(weight, {}).get("momentum_buffer", 0.0)
                step = group["momentum"] * buffer + gradient + group["weight_decay"] * weight
                after[name] = weight - group["lr"] * step
        loss = loss_of(after, *self.batches["validation"])
        used = self.model.architecture[:2]
        return float(loss.detach()), torch.cat(torch.autograd.grad(loss, used))

    def state(self) -> list[Tensor]:
        """Returns copies of all that must stay: weights, and the optimizer's state."""
        buffers = [value for state in self.optimizer.state.values() for value in state.values()]
        return [tensor.detach().clone() for tensor in (*self.model.weights, *buffers)]


def flat(architecture: list[nn.Parameter]) -> Tensor:
    return torch.cat([p.grad for p in architecture if p.grad is not None])


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("options", [{}, {"momentum": 0.0}, {"weight_decay": 0.0}], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_second_order_is_the_exact_gradient(steps, options):
    problem = Problem(steps=steps, **options)
    loss, wanted = problem.exact()
    first = Problem(steps=steps, **options).found("first_order")
    assert problem.gradient() == pytest.approx(loss, rel=1e-12)
    assert relative(flat(problem.model.architecture), wanted) < 1e-4
    assert relative(first, wanted) > 0.02


def test_the_term_of_the_second_derivative_alone_is_exact():
    problem = Problem()
    model = problem.model
    _, wanted = problem.exact()
    ahead = deepcopy(problem)
    # What the weights do without their gradient's dependence on the alphas: PyTorch's own step.
    first_order(FABRIC, ahead.objective("training"), held=ahead.model.architecture)
    ahead.optimizer.step()
    direct = ahead.found("first_order")
    assert relative(problem.found() - direct, wanted - direct) < 1e-4
    assert relative(wanted, direct) > 0.01
    assert model.architecture[2].grad is None


def test_the_first_order_is_the_gradient_at_the_present_weights():
    problem = Problem()
    x, y = problem.batches["validation"]
    loss = loss_of(dict(problem.model.named_parameters()), x, y)
    wanted = torch.cat(torch.autograd.grad(loss, problem.model.architecture[:2]))
    assert problem.gradient("first_order") == pytest.approx(float(loss.detach()))
    assert torch.equal(flat(problem.model.architecture), wanted)
    assert problem.calls == ["validation"]


def test_passes_and_what_they_compute():
    problem = Problem()
    learning = []

    def watched(name: str) -> Objective:
        def losses() -> Iterator[Tensor]:
            model = problem.model
            flags = [{p.requires_grad for p in group} for group in (model.weights, model.architecture)]
            assert all(p.grad is None for p in model.parameters())  # no pass holds those of another
            learning.append((name, *(flag.pop() for flag in flags)))
            yield from problem.objective(name)()

        return losses

    problem.gradient(training=watched("training"), validation=watched("validation"))
    alone, both = ("training", False, True), ("validation", True, True)
    assert learning == [("training", True, False), both, alone, alone]
    assert all(p.requires_grad for p in problem.model.parameters())


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("name", gradients.names())
def test_weights_and_optimizer_stay(name, steps):
    problem = Problem(steps=steps)
    before, entries = problem.state(), len(problem.optimizer.state)
    problem.gradient(name)
    assert all(map(torch.equal, problem.state(), before))
    assert len(problem.optimizer.state) == entries
    assert all(p.grad is None for p in problem.model.weights)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("failing", range(4))
def test_weights_are_restored_when_a_pass_fails(failing, error):
    problem = Problem(parts=2)
    before = problem.state()
    kept = [torch.ones_like(p) for p in problem.model.parameters()]
    for parameter, gradient in zip(problem.model.parameters(), kept, strict=True):
        parameter.grad = gradient
    passes = []

    def interrupted(name: str) -> Objective:
        def losses() -> Iterator[Tensor]:
            passes.append(name)
            for number, loss in enumerate(problem.objective(name)()):
                if len(passes) == failing + 1 and number == 1:
                    raise error
                yield loss

        return losses

    with pytest.raises(error):
        problem.gradient(training=interrupted("training"), validation=interrupted("validation"))
    assert len(passes) == failing + 1
    assert all(map(torch.equal, problem.state(), before))
    assert all(p.grad is gradient for p, gradient in zip(problem.model.parameters(), kept, strict=True))
    assert all((p.grad == 1).all() and p.requires_grad for p in problem.model.parameters())


def test_gradients_that_were_there_stay():
    wanted, problem = Problem().found(), Problem()
    for parameter in problem.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    problem.gradient()
    assert torch.allclose(flat(problem.model.architecture[:2]), wanted + 1, rtol=1e-12)
    assert all((p.grad == 1).all() for p in [*problem.model.weights, problem.model.architecture[2]])


@pytest.mark.parametrize("name", gradients.names())
def test_parts_of_a_batch_add_up(name):
    one, two = Problem(), Problem(parts=2)
    loss = one.gradient(name)
    assert two.gradient(name) == pytest.approx(loss, rel=1e-12)
    assert relative(flat(two.model.architecture), flat(one.model.architecture)) < 1e-10


def test_without_a_gradient_of_the_next_weights_there_is_no_second_term():
    problem = Problem()

    def of_alphas_alone() -> list[Tensor]:
        weights = sum(p.sum() * 0 for p in problem.model.weights)
        return [problem.model.alphas[0].square().sum() + weights]

    problem.gradient(validation=of_alphas_alone)
    assert torch.equal(flat(problem.model.architecture), 2 * problem.model.alphas[0].detach())
    assert problem.calls == ["training"]


def test_an_optimizer_wrapped_by_fabric_gives_the_same():
    wanted, problem = Problem().found(), Problem()
    problem.optimizer = FABRIC.setup_optimizers(problem.optimizer)
    assert torch.equal(problem.found(), wanted)


@pytest.mark.parametrize("option", [{"dampening": 0.1}, {"nesterov": True}, {"maximize": True}], ids=str)
def test_another_optimizer_is_refused_before_anything_is_done(option):
    problem = Problem(steps=0, **option)
    with pytest.raises(ValueError, match=next(iter(option))):
        problem.gradient()
    assert not problem.calls


def test_groups_of_parameters_are_refused():
    problem = Problem()
    problem.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})
    with pytest.raises(ValueError, match="one group"):
        problem.gradient()


def small_nas_wdan(*, fused: bool) -> Supernet:
    settings = LatticeSettings(depth=3, init_channel=4, double_down_channel=True, intermediate_nodes=2)
    supernet = NasWdanSupernet(settings, backend=nas_wdan.FUSED if fused else nas_wdan.REFERENCE)
    for head in supernet.frame.heads.values():
        dropout: Any = head.get_submodule("dropout")
        dropout.p = 0.0
    return supernet


def small_darts(*, fused: bool) -> Supernet:
    settings = DartsSettings(stem="cifar", search_channel=4, intermediate_nodes=2)
    return DartsSupernet(settings, depth=3, backend=darts.FUSED if fused else darts.REFERENCE)


def supernet_gradients(make: Callable[..., Supernet], *, fused: bool) -> tuple[Tensor, Tensor]:
    """Returns the gradients of a small supernet in first and in second order, in float64."""
    torch.manual_seed(0)
    supernet = make(fused=fused).double()
    weights, architecture = supernet.weights(), supernet.architecture()
    optimizer = torch.optim.SGD(weights, 0.1, momentum=0.9, weight_decay=3e-4)
    images = torch.rand(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    wanted = torch.linspace(-1, 1, 4)  # a value for each image

    def objective(number: int) -> Objective:
        def losses() -> Iterator[Tensor]:
            outputs = supernet(images[number], all_heads=True)
            yield torch.stack([(out.flatten(1).T - wanted).square().mean() for out in outputs]).sum()

        return losses

    first_order(FABRIC, objective(0), held=architecture)
    optimizer.step()
    found = []
    for name in ("first_order", "second_order"):
        optimizer.zero_grad()
        for parameter in architecture:
            parameter.grad = None
        gradients.get(name)(
            FABRIC,
            training=objective(0),
            validation=objective(1),
            weights=weights,
            architecture=architecture,
            optimizer=optimizer,
        )
        found.append(torch.cat([p.grad.flatten() for p in architecture if p.grad is not None]))
    return found[0], found[1]


@pytest.mark.parametrize("make", [small_nas_wdan, small_darts])
def test_both_backends_of_a_supernet_agree(make):
    plain_first, plain_second = supernet_gradients(make, fused=False)
    fast_first, fast_second = supernet_gradients(make, fused=True)
    assert relative(fast_first, plain_first) < 1e-9
    assert relative(fast_second, plain_second) < 1e-6
    assert relative(plain_second, plain_first) > 0.01
