"""The graph of operations of a network, as torch-pruning traces it, with the shapes that autograd recorded."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from medarts.network import Network
from medarts.network.layers import ChannelShuffle

AnyConv = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS_OF_CHANNELS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
LAYERS = (*CONVOLUTIONS, nn.Linear, *NORMS_OF_CHANNELS, nn.GroupNorm, nn.PReLU)


class Shuffled(torch.autograd.Function):
    """A shuffle as one operation of the graph; it is not differentiated."""

    groups: int

    @staticmethod
    def forward(ctx: Any, x_bchw: Tensor, groups: int) -> Tensor:
        """Returns what `ChannelShuffle` does."""
        ctx.groups = groups
        shuffled: Tensor = ChannelShuffle(groups)(x_bchw)
        return shuffled


@contextmanager
def traceable(network: nn.Module) -> Iterator[None]:
    """Keeps the modes of all modules, and makes an operation of each shuffle and instance norm."""
    shuffles = [module for module in network.modules() if isinstance(module, ChannelShuffle)]
    for shuffle in shuffles:
        shuffle.forward = partial(_shuffled, groups=shuffle.groups)  # type: ignore[method-assign]
    norms = [module for module in network.modules() if isinstance(module, nn.modules.instancenorm._InstanceNorm)]
    hooks = [norm.register_forward_hook(_cloned) for norm in norms]
    try:
        with _same_modes(network):
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for shuffle in shuffles:
            del shuffle.forward


@contextmanager
def _same_modes(network: nn.Module) -> Iterator[None]:
    """Gives all modules the modes back that they have."""
    modes = [(module, module.training) for module in network.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _cloned(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Returns an output that is no view, as autograd makes another operation of a view that is changed in place."""
    return output.clone()


def _shuffled(x_bchw: Tensor, *, groups: int) -> Tensor:
    return cast(Tensor, Shuffled.apply(x_bchw, groups))  # type: ignore[no-untyped-call]


def all_outputs(network: Network, image_1chw: Tensor) -> list[Tensor]:
    """Returns what all heads give in evaluation mode, those included that a network has in training mode alone.

    The network is left in a mode between the two.
    """
    network.eval()
    outputs = network.forward_heads(image_1chw)
    for module in network.modules():
        module.training = any(True for _ in module.children())  # norms and dropouts evaluate
    in_training = network.forward_heads(image_1chw)
    return in_training if len(in_training) > len(outputs) else outputs


def unused_parameters(network: Network, image_1chw: Tensor) -> set[str]:
    """Returns the names of the trainable parameters that no head depends on in evaluation mode.

    They are those of an auxiliary head, and those of operations that a network holds and never runs. Autograd says
    which, as a layer that runs may leave a parameter out, and one that does not run may lend its weights.

    Args:
        network: stays as it is.
        image_1chw: an image that it takes.
    """
    named = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    with _same_modes(network), torch.enable_grad():
        outputs = network.eval().forward_heads(image_1chw)
        gradients = torch.autograd.grad([output.sum() for output in outputs], [*named.values()], allow_unused=True)
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is None}


@dataclass(eq=False)
class Trace:
    """What a network computes.

    Attributes:
        nodes: of the graph.
        image: the operation that gives the image.
        heads: those that give the outputs.
        constants: those that give what a module makes of nothing, such as zeros.
        evaluated: modules that evaluation mode runs, for any head.
    """

    nodes: list[Any] = field(default_factory=list)
    image: Any = None
    heads: set[Any] = field(default_factory=set)
    constants: set[Any] = field(default_factory=set)
    evaluated: set[nn.Module] = field(default_factory=set)


def traced(network: Network, image_1chw: Tensor) -> Trace:
    """Runs a network on an image, with all heads, and returns the graph; the network stays as it is."""
    from torch_pruning import DependencyGraph

    trace, made = Trace(), list[Tensor]()

    class Graph(DependencyGraph):  # type: ignore[misc]
        """Keeps the nodes to itself, so that nothing guesses how many channels they have."""

        def _trace(self, *given: Any, **options: Any) -> dict[Any, Any]:
            trace.nodes = list(super()._trace(*given, **options).values())
            return {}

    def forward(_: nn.Module, image: Tensor) -> list[Tensor]:
        copied = image * 1  # so that the image is a node, and so is every output
        outputs = [output * 1 for output in all_outputs(network, copied)]
        trace.image, trace.heads = copied.grad_fn, {output.grad_fn for output in outputs}
        return outputs + made  # also what no output needs reads channels

    def note(module: nn.Module, _: tuple[Any, ...], output: Any) -> Any:
        if not network.training:
            trace.evaluated.add(module)
        if isinstance(module, LAYERS):
            made.append(output)
        elif isinstance(output, Tensor) and output.grad_fn is None and output.ndim > 1:
            output = output.detach().requires_grad_().clone()  # as constants are no nodes
            trace.constants.add(output.grad_fn)
        return output

    with ExitStack() as stack:
        stack.enter_context(traceable(network))
        stack.enter_context(torch.enable_grad())
        for module in network.modules():
            stack.callback(module.register_forward_hook(note).remove)
        image = image_1chw[:1].detach().clone().requires_grad_()
        Graph().build_dependency(network, image, forward_fn=forward, verbose=False)
    return trace


def behind(node: Any) -> set[Any]:
    """Returns a node and all that follow from it."""
    found, waiting = {node}, [node]
    while waiting:
        new = [output for output in waiting.pop().outputs if output not in found]
        found.update(new)
        waiting += new
    return found


def shape_of(node: Any) -> tuple[int, ...]:
    """Returns the shape of what a node gives."""
    if isinstance(node.module, nn.Parameter):
        return tuple(node.module.shape)
    return tuple(node.grad_fn._input_metadata[0].shape)


def channels_of(shape: Sequence[int], *, batched: bool) -> int:
    """Returns the channels of a tensor; those of parameters lie along the one axis that is longer than 1."""
    if batched:
        return shape[1] if len(shape) > 1 else 1
    longer = [length for length in shape if length > 1]
    return longer[0] if len(longer) == 1 else 1


def is_depthwise(conv: AnyConv) -> bool:
    """Returns whether each group of a convolution reads one channel."""
    return conv.groups > 1 and conv.groups == conv.in_channels


def norms_each_channel(norm: nn.GroupNorm) -> bool:
    """Whether a group norm has a group for each channel, so that channels do not depend on each other."""
    return norm.num_groups == norm.num_channels


def _axis(saved: int, rank: int) -> int:
    """Returns an axis as it counts from the front; autograd keeps negative ones as unsigned integers."""
    return (saved if saved < 2**63 else saved - 2**64) % rank


def is_concatenation(node: Any) -> bool:
    """Returns whether a node puts channels behind channels."""
    function = node.grad_fn
    name = "" if function is None else function.name()
    return name.startswith("CatBackward") and _axis(function._saved_dim, len(shape_of(node))) == 1


def is_flattening(node: Any) -> bool:
    """Returns whether a node makes a row of each image's maps."""
    return len(shape_of(node)) == 2 and "View" in node.grad_fn.name()


def parts_of(node: Any) -> list[Any]:
    """Returns the nodes of the parts of a concatenation, None for those without gradient."""
    inputs = iter(node.inputs)
    return [None if function is None else next(inputs) for function, _ in node.grad_fn.next_functions]
