"""A part of a batch of which every process has some images, and forward passes that are those of the whole part.

Two kinds of functions see more of a batch than one image: norms over the batch, and those that draw at random, image
after image. Inside `sharing` both do what they would do in one process, in any module and in the fused forms alike:
norms sum over the processes, and what is drawn is drawn for the whole part, of which this process takes its images'.
The functions of PyTorch themselves are caught, so networks and operations of users need not know of it.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from medarts.data.batches import Mixture
from medarts.errors import MedartsError, RecipeError
from medarts.system.ranks import Ranks

if TYPE_CHECKING:  # to count operations does not take its time
    from lightning_fabric import Fabric


@dataclass(frozen=True, slots=True)
class Share:
    """The images of a part of a batch that this process has.

    Attributes:
        ranks: the processes.
        counts: images of each process.
        parameters: that may get a gradient of it.
    """

    ranks: Ranks
    counts: tuple[int, ...]
    parameters: Callable[[], Sequence[nn.Parameter]]

    @property
    def first(self) -> int:
        """The first image of this process."""
        return sum(self.counts[: self.ranks.rank])

    @property
    def images(self) -> int:
        """How many images this process has."""
        return self.counts[self.ranks.rank]

    @property
    def whole(self) -> int:
        """Images of the part."""
        return sum(self.counts)


def check_shares(ranks: Ranks, *, batch: int, accumulate: int, field: str) -> None:
    """Refuses a batch whose parts have fewer images than there are processes.

    Args:
        ranks: the processes.
        batch: images of a batch.
        accumulate: parts of it.
        field: section of the recipe that has both.

    Raises:
        RecipeError: they have.
    """
    if batch // accumulate >= ranks.size:
        return
    parts = f" in {accumulate} parts" if accumulate > 1 else ""
    raise RecipeError(
        f"{field}.batch {batch}{parts} has fewer images at a time than there are processes, {ranks.size}.",
        fix=f"Use fewer processes{f', or a smaller {field}.accumulate' if accumulate > 1 else ', or a larger batch'}.",
    )


class _Process:
    """This process, which is at work on one part at a time, in whichever threads."""

    share: Share | None = None


def current_share() -> Share | None:
    """Returns what this process has of the part that it is at work on; None where it has all."""
    return _Process.share


@contextmanager
def sharing(
    part: Mixture, ranks: Ranks, parameters: Callable[[], Sequence[nn.Parameter]]
) -> Iterator[tuple[float, Mixture]]:
    """Gives this process its images of a part of a batch, and the share of the part that they are.

    Forward and backward pass belong inside. The whole part is the share of one process.

    Args:
        part: all images of it.
        ranks: the processes.
        parameters: returns those that may get a gradient.
    """
    if ranks.size == 1:
        yield 1.0, part
        return
    pieces = part.split(ranks.size)
    share, mine = pieces[ranks.rank]
    before, own = _Process.share, Share(ranks, tuple(len(piece.images) for _, piece in pieces), parameters)
    _Process.share = own
    try:
        with _AsOne(own):
            yield share, mine
    finally:
        _Process.share = before


@contextmanager
def unshared() -> Iterator[None]:
    """Has functions see tensors as they are: what is the same in all processes, as the architecture is, is no part."""
    before, _Process.share = _Process.share, None
    try:
        yield
    finally:
        _Process.share = before


def backward(fabric: "Fabric", losses: Iterable[Tensor]) -> float:
    """Adds the gradient of a sum of losses, and returns the sum; of losses that are shared, over all processes.

    Args:
        fabric: does the backward passes in the run's precision.
        losses: of the parts of a batch. Each is taken only when the gradient of the one before it is done: if a
            generator makes them, the activations of no two parts are in memory together.
    """
    total, reduction = 0.0, None
    with ExitStack() as left_behind:
        if isinstance(losses, Generator):  # where a backward pass fails, it is still within the share of a part
            left_behind.callback(losses.close)
        for loss in losses:
            share = current_share()
            if share is not None and reduction is None:
                reduction = _Reduction(share)
            # What all processes have whole, beside what they share, is to count once.
            counted = loss / reduction.size if share is None and reduction is not None else loss
            fabric.backward(counted)
            total += float(counted.detach())
    return total if reduction is None else reduction.finished(total)


class _Reduction:
    """Sums gradients over the processes: those that come from now on.

    Args:
        share: of this process.
    """

    def __init__(self, share: Share) -> None:
        self._ranks, self.size = share.ranks, share.ranks.size
        self._parameters = [parameter for parameter in share.parameters() if parameter.requires_grad]
        self._before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def finished(self, loss: float) -> float:
        """Gives all parameters the sum of their gradients, added to what they had, and returns the sum of the losses.

        One that no process has a gradient for keeps what it had. All take part in the sum, so that processes agree on
        what is summed even where a part of the network was not run in all of them.
        """
        for dtype in dict.fromkeys(parameter.dtype for parameter in self._parameters):
            of_dtype = [parameter for parameter in self._parameters if parameter.dtype == dtype]
            has = [torch.zeros_like(each) if each.grad is None else each.grad for each in of_dtype]
            counts = torch.tensor([each.grad is not None for each in of_dtype], dtype=dtype, device=has[0].device)
            flat = torch.cat([*(gradient.reshape(-1) for gradient in has), counts])
            self._ranks.add(flat)
            *sums, counts = torch.split(flat, [*(each.numel() for each in of_dtype), len(of_dtype)])
            for parameter, gradient, like, count in zip(of_dtype, sums, has, counts.tolist(), strict=True):
                parameter.grad = torch.empty_like(like).copy_(gradient.view(like.shape)) if count else None
        for parameter, before in zip(self._parameters, self._before, strict=True):
            if before is not None:
                parameter.grad = before if parameter.grad is None else before + parameter.grad
        return self._ranks.total(loss)


class _AsOne(TorchFunctionMode):
    """Has the functions that see a whole batch do so.

    Args:
        share: of this process.
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Calls a function, or what stands for it; inside that, functions are as they are."""
        replacement = _REPLACED.get(function) if _Process.share is self.share else None
        if replacement is None:
            return function(*args, **(kwargs or {}))
        return replacement(self.share, *args, **(kwargs or {}))


def _dropout_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a kind of dropout that drops the same as in one process."""

    def dropped(share: Share, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return function(x, p, training, inplace)
        noise = _own(share, function(torch.ones_like(_whole(share, x, function)), p, True, False))
        return x.mul_(noise) if inplace else x * noise

    return dropped


def _like(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a function that draws a tensor like another, as in one process."""

    def drawn(share: Share, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return _own(share, function(_whole(share, x, function), *args, **kwargs))

    return drawn


def _filled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a method that fills a tensor with random numbers, as in one process."""

    def filled(share: Share, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x.copy_(_own(share, function(_whole(share, x, function), *args, **kwargs)))

    return filled


def _bernoulli(share: Share, x: Tensor, **kwargs: Any) -> Tensor:
    """Returns zeros and ones by the probabilities of its own images; those of others use up as many draws."""
    whole = _whole(share, x, torch.bernoulli).fill_(0.5)
    _own(share, whole).copy_(x)
    return _own(share, torch.bernoulli(whole, **kwargs))


def _whole(share: Share, x: Tensor, function: Callable[..., Tensor]) -> Tensor:
    """Returns an empty tensor of the shape that another has in one process, laid out alike in memory.

    Raises:
        MedartsError: its first axis is not that of the images.
    """
    if not x.ndim or len(x) != share.images:
        raise MedartsError(
            f"{function.__name__} draws a tensor {tuple(x.shape)}, whose first axis is not that of the "
            f"{share.images} images of this process.",
            fix="Let the first axis be that of the images, or use one process.",
        )
    # What is drawn goes along memory. A single image says nothing of how far it is to the next one: images are apart.
    apart = x.stride(0) if len(x) > 1 else float("inf")
    order = sorted(range(x.ndim), key=lambda axis: apart if axis == 0 else x.stride(axis), reverse=True)
    shape = (share.whole, *x.shape[1:])
    laid_out = x.new_empty([shape[axis] for axis in order])
    return laid_out.permute([order.index(axis) for axis in range(x.ndim)])


def _drawn_alike(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Returns a function that makes a tensor of random numbers, for one number alone: which is that of one process."""

    def drawn(share: Share, *args: Any, **kwargs: Any) -> Tensor:
        found = function(*args, **kwargs)
        if found.numel() > 1:
            raise _not_of_images(function)
        return found

    return drawn


def _refused_where(function: Callable[..., Any], **places: int) -> Callable[..., Any]:
    """Returns a function that is refused where it draws.

    Args:
        function: of PyTorch.
        **places: number of each argument that is neither 0 nor False there.
    """

    def refused(share: Share, *args: Any, **kwargs: Any) -> Any:
        if all(kwargs.get(name, args[place] if place < len(args) else None) for name, place in places.items()):
            raise _not_of_images(function)
        return function(*args, **kwargs)

    return refused


def _not_of_images(function: Callable[..., Any]) -> MedartsError:
    name = getattr(function, "__name__", str(function))
    return MedartsError(
        f"{name} draws random numbers, which would be the same for the images of all processes.",
        fix="Draw with torch.rand_like, torch.randn_like, torch.bernoulli or F.dropout of a tensor whose first axis is "
        "that of the images, or use one process.",
    )


def _own(share: Share, whole: Tensor) -> Tensor:
    return whole[share.first : share.first + share.images]


def _batch_norm(  # noqa: PLR0917  # the arguments are those of PyTorch
    share: Share,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Returns a norm with the statistics of the whole part, and lets running statistics follow them."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if len(x) != share.images:
        raise MedartsError(
            f"A batch norm sees a tensor {tuple(x.shape)}, whose first axis is not that of the {share.images} images "
            "of this process.",
            fix="Let the first axis be that of the images, or use one process.",
        )
    # PyTorch gives ``apply`` no types.
    y, mean, variance = _Normed.apply(x, weight, bias, eps, share)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        if running_var is not None:
            number = x[0].numel() // x.shape[1] * share.whole
            running_var.lerp_((variance * (number / max(1, number - 1))).to(running_var.dtype), momentum)
    result: Tensor = y
    return result


class _Normed(torch.autograd.Function):
    """A batch norm over several processes. Gradients of scale and shift are those of this process' images."""

    @staticmethod
    def forward(  # noqa: PLR0917  # autograd has no keywords
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, share: Share
    ) -> tuple[Tensor, Tensor, Tensor]:
        axes, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        # In float64 on a CPU, where PyTorch's own norm sums in it, too.
        exact = torch.float64 if x.device.type == "cpu" else torch.promote_types(x.dtype, torch.float32)
        precise = torch.promote_types(x.dtype, torch.float32)
        wide, pixels = x.to(precise), x[0].numel() // x.shape[1]
        number = pixels * share.whole
        # Sums of squares around the mean of each process, all in one sum of as many rows: every wait takes its time.
        own_mean = wide.mean(axes, dtype=exact)
        rows = own_mean.new_zeros(share.ranks.size, 2, x.shape[1])
        squares = (wide - own_mean.to(precise).view(shape)).square().sum(axes, dtype=exact)
        rows[share.ranks.rank] = torch.stack([own_mean, squares])
        share.ranks.add(rows)
        means, squares = rows.unbind(1)
        counts = pixels * rows.new_tensor(share.counts).view(-1, 1)
        mean = (counts * means).sum(0) / number
        variance = (squares.sum(0) + (counts * (means - mean).square()).sum(0)) / number
        centred = wide - mean.to(precise).view(shape)
        inverse = (variance + eps).rsqrt().to(precise)
        normed = centred * inverse.view(shape)
        ctx.save_for_backward(normed, inverse, weight)
        ctx.about = axes, shape, exact, number, share, bias is not None
        y = normed if weight is None else normed * weight.to(precise).view(shape)
        y = y if bias is None else y + bias.to(precise).view(shape)
        ctx.mark_non_differentiable(mean, variance)
        return (y.to(x.dtype) if y is not normed else y.to(x.dtype, copy=True)), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        normed, inverse, weight = ctx.saved_tensors
        axes, shape, exact, number, share, has_bias = ctx.about
        given = gradient
        gradient = gradient.to(normed.dtype)
        of_shift = gradient.sum(axes, dtype=exact)
        of_scale = (gradient * normed).sum(axes, dtype=exact)
        of_weight = None if weight is None else of_scale.to(weight.dtype)
        of_bias = of_shift.to(weight.dtype if weight is not None else normed.dtype) if has_bias else None
        of_x = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([of_shift, of_scale])
            share.ranks.add(sums)
            mean, along = (sums / number).to(normed.dtype)
            of_x = gradient - mean.view(shape) - normed * along.view(shape)
            of_x = (of_x * (inverse if weight is None else inverse * weight.to(inverse.dtype)).view(shape)).to(
                given.dtype
            )
        return of_x, of_weight, of_bias, None, None


_REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.batch_norm: _batch_norm,
    torch.bernoulli: _bernoulli,
    **{kind: _dropout_of(kind) for kind in (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)},
    **{kind: _like(kind) for kind in (torch.rand_like, torch.randn_like)},
    **{
        kind: _filled(kind)
        for kind in (torch.Tensor.bernoulli_, torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.exponential_)
    },
    **{
        kind: _drawn_alike(kind)
        for kind in (
            *(torch.rand, torch.randn, torch.randint, torch.randint_like, torch.randperm, torch.normal, torch.poisson),
            *(torch.multinomial, torch.binomial, torch.Tensor.multinomial, torch.Tensor.bernoulli, F.gumbel_softmax),
            *(torch.Tensor.random_, torch.Tensor.cauchy_, torch.Tensor.geometric_, torch.Tensor.log_normal_),
        )
    },
    **{kind: _refused_where(kind, training=2) for kind in (F.alpha_dropout, F.feature_alpha_dropout)},
    **{kind: _refused_where(kind, training=3) for kind in (F.rrelu, torch.rrelu, torch.rrelu_)},
    **{
        kind: _refused_where(kind, train=2)
        for kind in (torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout)
    },
    F.scaled_dot_product_attention: _refused_where(F.scaled_dot_product_attention, dropout_p=4),
    F.multi_head_attention_forward: _refused_where(F.multi_head_attention_forward, dropout_p=10, training=13),
}
"""Functions of PyTorch that see a whole batch -> what they do inside `sharing`."""
