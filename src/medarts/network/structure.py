"""What was cut away of a network: heads, whole parts, and channels of layers.

A structure is small, readable JSON. Applied to the network that its genotype or its settings build, it gives the
network that was cut, with weights still to be loaded. It lists what differs from the network as built alone; sizes that
depend on the number of outputs or on the channels of images do not, so a pruned network takes another head.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, Strict
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from medarts.errors import RunError, did_you_mean, shortened
from medarts.network import Network

Size = Annotated[int, Strict(), Field(ge=1)]
Sizes = dict[str, int]

_FIX = "Copy the structure again; it is not to be edited by hand."


class Structure(BaseModel):
    """What was cut away of a network.

    >>> structure = Structure(layers={"encoder.0.0.conv": {"out": 5}, "encoder.0.0.norm": {"channels": 5}})
    >>> structure.layers["encoder.0.0.conv"]
    {'out': 5}

    Attributes:
        heads: names of the heads that are left, early to last. Default: all.
        without: parts that were taken away whole, names of `medarts.network.Network.removable_parts`.
        layers: path of a module -> its sizes that differ from those of the network as built: "in", "out" and "groups"
            of convolutions and linear layers, "channels" and "groups" of norms; of other modules "weight[0]", the first
            dimension of the tensor ``weight``, and so on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    heads: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    without: tuple[str, ...] = ()
    layers: dict[str, Annotated[dict[str, Size], Field(min_length=1)]] = {}

    def apply(self, network: Network) -> None:
        """Cuts a network as its architecture builds it, in place; its weights are loaded afterwards.

        Raises:
            RunError: the structure is that of another network, or damaged; the network is then of no use.
        """
        network.take_away(self.without, self.heads)
        modules = dict(network.named_modules())
        for path, sizes in self.layers.items():
            if path not in modules:
                raise RunError(f"The network has no layer {shortened(path)}.", fix=did_you_mean(path, modules))
            _resize(modules[path], _checked(path, modules[path], sizes))
        network.lay_out_again()


def structure_of(
    network: Network, built: Network, *, heads: Sequence[str] | None = None, without: Sequence[str] = ()
) -> Structure:
    """Returns what was cut away of a network.

    Args:
        network: the network that was cut.
        built: the same one as its architecture builds it; the same parts and heads are taken away from it here.
        heads: the heads that are left, early to last. Default: all.
        without: the parts that were taken away whole.

    Raises:
        RunError: the parts and heads cannot be taken away.
        ValueError: the network has a module, or a module a size, that the network as built has not.
    """
    built.take_away(without, heads)
    modules, layers = dict(built.named_modules()), {}
    for path, module in network.named_modules():
        before = modules.get(path)
        if before is None or type(module) is not type(before):
            raise ValueError(f"{path} is no module of the network as built")
        old, new = sizes_of(before), sizes_of(module)
        if old.keys() != new.keys():
            raise ValueError(f"{path} has other tensors than in the network as built")
        if differing := {key: size for key, size in new.items() if size != old[key]}:
            layers[path] = differing
    return Structure(heads=None if heads is None else tuple(heads), without=tuple(without), layers=layers)


def sizes_of(module: nn.Module) -> Sizes:
    """Returns the sizes of a module itself, without those of the modules in it; see `Structure`.

    >>> sizes_of(nn.Conv2d(4, 8, 3, groups=2)), sizes_of(nn.BatchNorm2d(8)), sizes_of(nn.ReLU())
    ({'in': 4, 'out': 8, 'groups': 2}, {'channels': 8}, {})
    """
    match module:
        case _ConvNd():
            return {"in": module.in_channels, "out": module.out_channels, "groups": module.groups}
        case nn.Linear():
            return {"in": module.in_features, "out": module.out_features}
        case nn.GroupNorm():
            return {"channels": module.num_channels, "groups": module.num_groups}
        case _NormBase():
            return {"channels": module.num_features}
    return {f"{name}[{axis}]": size for name, tensor in _tensors(module) for axis, size in enumerate(tensor.shape)}


def check_cut(network: Network, *, in_channels: int, outputs: int) -> None:
    """Refuses a network whose layers do not fit each other, by trying it on a small image.

    Args:
        network: the network; nothing of it changes.
        in_channels: channels of the images.
        outputs: channels of the logits.

    Raises:
        RunError: they do not.
    """
    like, size = next(network.parameters()), network.small_size
    device = torch.device("cpu") if like.is_meta else like.device
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]), device:
            images = torch.zeros(2, in_channels, size, size, dtype=like.dtype)
            # In training mode, in which all heads run; norms count the batches that they see then, in copies.
            found = functional_call(network, _copies(network), (images,), {"all_heads": True})
    except (RuntimeError, ValueError, IndexError) as error:
        raise RunError(
            f"Its layers do not fit each other ({shortened(' '.join(str(error).split()))}).", fix=_FIX
        ) from None
    channels = {logits.shape[1] for logits in found}
    if channels != {outputs}:
        raise RunError(f"Its heads give {', '.join(map(str, sorted(channels)))} outputs, not {outputs}.", fix=_FIX)


def _copies(network: nn.Module) -> dict[str, Tensor]:
    """Returns copies of the buffers of a network; of one without memory, zeros for its parameters too.

    Most operations without memory import a compiler, which takes seconds.
    """
    every = dict(network.named_buffers())
    if next(network.parameters()).is_meta:
        every |= dict(network.named_parameters())
    return {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.clone()
        for name, tensor in every.items()
    }


def _tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def _checked(path: str, module: nn.Module, wanted: Mapping[str, int]) -> Sizes:
    """Returns all sizes of a module, with those that are wanted.

    Raises:
        RunError: it cannot have them.
    """
    built = sizes_of(module)
    for key, size in wanted.items():
        if key not in built:
            fix = did_you_mean(key, built) if built else _FIX
            raise RunError(f"The layer {path} ({type(module).__name__}) has no size {shortened(key)}.", fix=fix)
        if not 1 <= size <= built[key]:
            raise RunError(f"The layer {path} has {key} {size}; from 1 to {built[key]} is possible.", fix=_FIX)
    sizes: Sizes = {**built, **wanted}
    groups = sizes.get("groups", 1)
    for key in sizes.keys() & {"in", "out", "channels"}:
        if sizes[key] % groups:
            raise RunError(
                f"The layer {path} has {key} {sizes[key]}, not a multiple of its groups, {groups}.", fix=_FIX
            )
    if isinstance(module, _ConvNd) and any(sizes[key] // groups > built[key] // module.groups for key in ("in", "out")):
        raise RunError(f"The layer {path} has {groups} groups, larger ones than as built.", fix=_FIX)
    return sizes


def _resize(module: nn.Module, sizes: Sizes) -> None:
    """Gives a module sizes that it can have; its tensors keep the values at their beginning."""
    match module:
        case _ConvNd():
            module.in_channels, module.out_channels, module.groups = sizes["in"], sizes["out"], sizes["groups"]
            ends = (module.in_channels, module.out_channels)
            first, second = ends if module.transposed else ends[::-1]
            _shorten(module, weight=(first, second // module.groups), bias=(module.out_channels,))
        case nn.Linear():
            module.in_features, module.out_features = sizes["in"], sizes["out"]
            _shorten(module, weight=(module.out_features, module.in_features), bias=(module.out_features,))
        case nn.GroupNorm():
            module.num_channels, module.num_groups = sizes["channels"], sizes["groups"]
            _shorten(module, weight=(module.num_channels,), bias=(module.num_channels,))
        case _NormBase():
            module.num_features = sizes["channels"]
            _shorten(module, **dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (sizes["channels"],)))
        case _:
            lengths = {
                name: tuple(sizes[f"{name}[{axis}]"] for axis in range(of.dim())) for name, of in _tensors(module)
            }
            _shorten(module, **lengths)


def _shorten(module: nn.Module, **lengths: tuple[int, ...]) -> None:
    """Cuts tensors of a module to lengths of their first dimensions; those that it has not are left out."""
    for name, tensor in _tensors(module):
        if name not in lengths or tensor.shape[: len(lengths[name])] == lengths[name]:
            continue
        shorter = tensor.detach()[tuple(slice(length) for length in lengths[name])].clone()
        if isinstance(tensor, nn.Parameter):
            setattr(module, name, nn.Parameter(shorter, requires_grad=tensor.requires_grad))
        else:
            setattr(module, name, shorter)
