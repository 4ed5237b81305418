"""Trained networks as one file, from stored values to masks and findings: ONNX, which runs without PyTorch, or torch.

The file of ``torch.export`` is for programs in PyTorch that do without medarts:

    about = {"medarts.json": ""}
    network = torch.export.load("net.pt2", extra_files=about).module()
    probabilities, mask = network(images)  # float32, B x C x H x W, as stored
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils import _pytree as pytree

from medarts.deploy.deployable import Deployable, output_names
from medarts.deploy.engines import IMAGE, LIMITS, Floats, OnnxRuntimeEngine, Outputs
from medarts.deploy.info import METADATA, ModelInfo
from medarts.network import Network

ARCHIVED = "medarts.json"
"""The name of the description in an archive of ``torch.export``."""

OPSET = 20
"""Of the operators; the first one whose Resize has what PyTorch's has (18), and ONNX Runtime 1.17 knows."""


def to_onnx(deployable: Deployable) -> bytes:
    """Returns a network with what comes before and after it as the content of an ONNX file.

    Batch, height and width are dynamic; inputs and outputs are named as in ``medarts.deploy.engines``.

    Args:
        deployable: in evaluation mode, on the CPU.
    """
    arguments, shapes = _inputs(deployable.info)
    program = _program(deployable, arguments, shapes)
    model = _cleaned(_translated(program, arguments, deployable.output_names))
    return with_metadata(model, deployable.info)


def network_to_onnx(network: Network, *, in_channels: int, size: int) -> bytes:
    """Returns a network alone as the content of an ONNX file: the part of an exported file whose latency is measured.

    Its input, named as in ``medarts.deploy.engines``, is images in 0..1 of the size given, its output ``logits``, those
    of the last head; the batch is dynamic.

    Args:
        network: in evaluation mode, on the CPU.
        in_channels: channels of the images.
        size: their height and width, in pixels.
    """
    return Translation(network, in_channels=in_channels, size=size).content


ALIKE = 1e-3
"""Largest difference of the logits of PyTorch and ONNX Runtime, as a share of the largest, that rounding explains."""


class Translation:
    """A network alone as a graph of ONNX, of which the same network at another width is made in a tenth of the time.

    Args:
        network: in evaluation mode, on the CPU.
        in_channels: channels of the images.
        size: their height and width, in pixels.
    """

    def __init__(self, network: Network, *, in_channels: int, size: int) -> None:
        images = (torch.zeros(2, in_channels, size, size),)
        program = _program(_Alone(network), images, ({0: torch.export.Dim("batch", min=1)},))
        self._shape = images[0].shape
        self._graph = _translated(program, images, ("logits",))

    @property
    def content(self) -> bytes:
        """The content of an ONNX file; see `network_to_onnx`."""
        content: bytes = _cleaned(self._graph).SerializeToString()
        return content

    def of(self, network: Network) -> bytes | None:
        """Returns another network as the content of an ONNX file, the same as if it was translated itself.

        None where its graph is another one: its weights do not fit, or what comes out of it is not what the network
        gives, as where a number of channels is also one of its constants.
        """
        import onnx
        from onnx.numpy_helper import from_array

        weights = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        model = onnx.ModelProto()
        model.CopyFrom(self._graph)
        del model.graph.value_info[:]
        before = {weight.name: tuple(weight.dims) for weight in model.graph.initializer}
        if not all(name in weights and weights[name].ndim == len(dims) for name, dims in before.items()):
            return None
        for weight in model.graph.initializer:
            weight.CopyFrom(from_array(weights[weight.name].numpy(), weight.name))
        for node in model.graph.node:
            if node.op_type in {"Conv", "ConvTranspose"} and node.input[1] in before:
                channels, of_group, *_ = before[node.input[1]]
                for attribute in node.attribute:
                    if attribute.name == "group" and of_group == 1 and attribute.i == channels:  # each by itself
                        attribute.i = len(weights[node.input[1]])
        try:
            content: bytes = _cleaned(model).SerializeToString()
            images = torch.rand(self._shape, generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                expected: Tensor = network(images)
            found = OnnxRuntimeEngine(content, threads=1).run(images.numpy(), np.empty((2, 2), np.float32))
        except Exception:  # of shapes that do not fit each other; its classes have no common base
            return None
        difference = np.abs(found["logits"] - expected.numpy()).max()
        return content if difference <= ALIKE * float(expected.abs().max()) else None


def modules_to_onnx(modules: Sequence[nn.Module], shapes: Sequence[Sequence[tuple[int, int, int]]]) -> list[Any]:
    """Returns parts of networks as ONNX models, each alone, as they are in an exported network.

    All are exported as one graph, which is taken apart then: most of the time of an export is the same for any graph.

    Args:
        modules: in evaluation mode, on the CPU; each gives one tensor.
        shapes: for each module, those of its inputs (C, H, W); it takes the inputs one by one.
    """
    from onnx.utils import Extractor

    inputs = [f"in{place}_{number}" for place, own in enumerate(shapes) for number in range(len(own))]
    outputs = [f"out{place}" for place in range(len(modules))]
    tensors = tuple(torch.zeros(1, *shape) for own in shapes for shape in own)
    arguments = (tensors,)
    program = _program(_SideBySide(modules, [*map(len, shapes)]), arguments, (({},) * len(tensors),))
    parts = Extractor(_simplified(_translated(program, arguments, outputs, inputs=inputs)))
    return [
        parts.extract_model([name for name in inputs if name.startswith(f"in{place}_")], [output])
        for place, output in enumerate(outputs)
    ]


class _SideBySide(nn.Module):
    """Modules that know nothing of each other."""

    def __init__(self, modules: Sequence[nn.Module], numbers: Sequence[int]) -> None:
        super().__init__()
        self.network = nn.ModuleList(modules)
        self.numbers = numbers

    def forward(self, inputs_bchw: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Returns the output of every module, which takes as many of the inputs as it needs."""
        given = iter(inputs_bchw)
        return tuple(module(*islice(given, number)) for module, number in zip(self.network, self.numbers, strict=True))


class _Alone(nn.Module):
    """A network's last head. Weights are named below ``network``, where no name is also that of an operation."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_bchw: Tensor) -> Tensor:
        """Returns the logits."""
        logits: Tensor = self.network(images_bchw)
        return logits


def _cleaned(translated: Any) -> Any:
    """Returns a translated graph, simplified, with the domains that it uses and named axes."""
    model = _simplified(translated)
    # ONNX Runtime names every domain that it knows, also those of its own that nothing uses.
    used = {node.domain for node in model.graph.node}
    opsets = [each for each in model.opset_import if each.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    _name_axes(model.graph)
    return model


def with_metadata(model: Any, info: ModelInfo) -> bytes:
    """Returns the content of an ONNX file that says what its network expects and gives."""
    import onnx

    onnx.helper.set_model_props(model, metadata(info))
    content: bytes = model.SerializeToString()
    return content


def to_torch(deployable: Deployable) -> bytes:
    """Returns the same as the content of an archive of ``torch.export``, the description in "medarts.json" of it."""
    content, about = io.BytesIO(), {ARCHIVED: deployable.info.model_dump_json()}
    program = _program(deployable, *_inputs(deployable.info))
    with quiet():
        torch.export.save(program, content, extra_files=about)
    return content.getvalue()


class TorchArchive:
    """A network in an archive of ``torch.export``.

    Args:
        content: of the archive.
    """

    name = "torch.export"

    def __init__(self, content: bytes) -> None:
        about = {ARCHIVED: ""}
        with quiet():
            program = torch.export.load(io.BytesIO(content), extra_files=about)
        self.info = ModelInfo.model_validate_json(about[ARCHIVED])
        self._network = program.module()
        self._names = output_names(self.info)

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns all outputs by name."""
        given = [torch.from_numpy(images_bchw), torch.from_numpy(limits_b2)]
        with torch.inference_mode():
            found = self._network(*given[: 1 if self.info.percentiles is None else 2])
        return {name: each.numpy() for name, each in zip(self._names, found, strict=True)}


def metadata(info: ModelInfo) -> dict[str, str]:
    """Returns the metadata of an exported file: the description of the network, and its main lines for readers."""
    calibration, provenance = info.calibration, info.provenance
    low, high = info.window or info.expected_range
    lines = {
        METADATA: info.model_dump_json(),
        "name": info.name,
        "task": info.task,
        "classes" if info.task == "segmentation" else "findings": ", ".join(info.outputs),
        "head": info.head,
        "expected range": f"{low:g} to {high:g}",
        "threshold": f"{info.threshold:g}",
        "created": provenance.created,
        "recipe SHA-256": provenance.recipe,
        "weights": provenance.weights,
    }
    if info.spacing is not None:
        lines["spacing in mm"] = " x ".join(f"{length:g}" for length in info.spacing)
    if calibration is not None:
        lines["temperature"] = f"{calibration.temperature:g}"
        for rule, values in calibration.thresholds.items():
            found = (f"{name} {value:g}" for name, value in values.items() if value is not None)
            lines[f"thresholds, {rule}"] = ", ".join(found)
    return lines


def _name_axes(graph: Any) -> None:
    """Names the dynamic axes of inputs and outputs, and drops what is known of the shapes between."""
    del graph.value_info[:]
    axes = [graph.input[0].type.tensor_type.shape.dim[axis] for axis in (0, 2, 3)]
    names = dict(zip([axis.dim_param for axis in axes], ("batch", "height", "width"), strict=True))
    for value in (*graph.input, *graph.output):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = names[axis.dim_param]


def _inputs(info: ModelInfo) -> tuple[tuple[Tensor, ...], tuple[dict[int, Any], ...]]:
    """Returns an example of the inputs of a network, and the dynamic axes of each."""
    image = torch.zeros(2, info.in_channels, info.size + 1, info.size + 2)
    # One is a size like any other, though PyTorch would make a case of its own of it.
    batch, height, width = (torch.export.Dim(name, min=1) for name in ("batch", "height", "width"))
    axes = {0: batch, 2: height, 3: width}
    if info.resize == "patches":  # windows have one size
        image, axes = torch.zeros(2, info.in_channels, info.size, info.size), {0: batch}
    if info.percentiles is None:
        return (image,), (axes,)
    return (image, torch.full((2, 2 * len(info.channels_of_parts)), torch.nan)), (axes, {0: batch})


def _program(module: nn.Module, arguments: tuple[Any, ...], shapes: tuple[Any, ...]) -> Any:
    """Returns the graph of a module in PyTorch.

    Args:
        module: in evaluation mode, on the CPU.
        arguments: an example of its inputs.
        shapes: of each input its dynamic axes.
    """
    with quiet(), torch.no_grad():
        return torch.export.export(module, arguments, dynamic_shapes=shapes)


def _translated(
    program: Any, arguments: tuple[Any, ...], outputs: Sequence[str], *, inputs: Sequence[str] = (IMAGE, LIMITS)
) -> Any:
    """Returns a graph of PyTorch as one of ONNX, with names for its inputs, as many as it has, and outputs."""
    if _is_functional(program.graph):
        # torch.onnx traces the whole graph once more to take composed operators apart, which takes most of its time.
        whole = copy.copy(program)
        whole.run_decompositions = lambda table=None: whole
        with suppress(torch.onnx.OnnxExporterError):  # an operator that has no translation as a whole
            return _as_onnx(whole, arguments, inputs, outputs)
    return _as_onnx(program, arguments, inputs, outputs)


def _is_functional(graph: torch.fx.Graph) -> bool:
    """Tells whether no operator has other graphs inside it, or changes what others read."""
    return all(_changes_nothing(node) for node in graph.nodes if node.op == "call_function")


def _changes_nothing(node: torch.fx.Node) -> bool:
    if not isinstance(node.target, OpOverload):
        return not isinstance(node.target, HigherOrderOperator)
    if not node.target._schema.is_mutable:
        return True
    changed = node.args[0]
    if node.target not in _IN_PLACE or not isinstance(changed, torch.fx.Node) or len(changed.users) > 1:
        return False
    made_by = changed.target
    return isinstance(made_by, OpOverload) and not any(each.alias_info for each in made_by._schema.returns)


def _as_onnx(program: Any, arguments: tuple[Any, ...], inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    with quiet(), torch.no_grad():
        translated = torch.onnx.export(
            program,
            arguments,
            dynamo=True,
            optimize=False,  # takes as long as all the rest, see _simplified
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=[*inputs][: len(pytree.tree_leaves(arguments))],
            output_names=[*outputs],
            custom_translation_table=dict(_translations()),
        )
    assert translated is not None
    return translated.model_proto


_aten = torch.ops.aten

_IN_PLACE = (_aten.relu_.default, _aten.leaky_relu_.default, _aten.detach_.default)
"""Operators that are translated as if they changed nothing, where nothing else reads what they change."""


def _translations() -> Mapping[Any, Any]:
    """Returns translations of operators that torch.onnx has none for, or one that leads to more nodes."""
    from onnxscript import opset20 as op

    def convolution(  # noqa: PLR0917  # the arguments are those of aten
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = (1, 1),
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        groups: int = 1,
    ) -> Any:
        return op.Conv(*_present(x, weight, bias), **_geometry(stride, padding, dilation, groups))

    def transposed_convolution(  # noqa: PLR0917  # the arguments are those of aten
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = (1, 1),
        padding: Any = (0, 0),
        output_padding: Any = (0, 0),
        groups: int = 1,
        dilation: Any = (1, 1),
    ) -> Any:
        around = _geometry(stride, padding, dilation, groups)
        return op.ConvTranspose(*_present(x, weight, bias), output_padding=[*output_padding], **around)

    def batch_norm(  # noqa: PLR0917  # the arguments are those of aten
        x: Any, weight: Any, bias: Any, mean: Any, var: Any, training: bool, momentum: float, eps: float, cudnn: bool
    ) -> Any:
        if training:
            raise NotImplementedError("statistics of the batch itself; this operator is taken apart")
        channels = int(x.shape[1])
        scale = op.Constant(value_floats=[1.0] * channels) if weight is None else weight
        shift = op.Constant(value_floats=[0.0] * channels) if bias is None else bias
        return op.BatchNormalization(x, scale, shift, mean, var, epsilon=eps)

    def group_norm(  # noqa: PLR0917  # the arguments are those of aten
        x: Any, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, cudnn: bool = True
    ) -> Any:
        # Of what ONNX Runtime has kernels for, this is the fastest on a CPU (docs/performance.md).
        channels, height, width = (int(length) for length in x.shape[1:])
        grouped = op.Reshape(x, op.Constant(value_ints=[0, groups, -1]))
        ones, zeros = op.Constant(value_floats=[1.0] * groups), op.Constant(value_floats=[0.0] * groups)
        normed = op.InstanceNormalization(grouped, ones, zeros, epsilon=eps)
        y = op.Reshape(normed, op.Constant(value_ints=[0, channels, height, width]))
        if weight is not None:
            y = op.Mul(y, op.Unsqueeze(weight, op.Constant(value_ints=[1, 2])))
        return y if bias is None else op.Add(y, op.Unsqueeze(bias, op.Constant(value_ints=[1, 2])))

    def resize(x: Any, size: Any, align_corners: bool, scales: Any = None) -> Any:
        batch, one = op.Shape(x, start=0, end=2), op.Constant(value_ints=[1])
        lengths = [op.Constant(value_ints=[n]) if isinstance(n, int) else op.Reshape(n, one) for n in size]
        return op.Resize(
            x,
            None,
            None,
            op.Concat(batch, *lengths, axis=0),
            mode="linear",
            coordinate_transformation_mode="align_corners" if align_corners else "half_pixel",
            antialias=1,
            exclude_outside=1,  # at borders PyTorch weighs what lies inside
        )

    return {
        _aten.conv2d.default: convolution,
        _aten.conv_transpose2d.input: transposed_convolution,
        _aten.batch_norm.default: batch_norm,
        _aten.group_norm.default: group_norm,
        _aten.relu_.default: op.Relu,
        _aten.leaky_relu_.default: lambda x, slope=0.01: op.LeakyRelu(x, alpha=slope),
        _aten.detach_.default: op.Identity,
        _aten.to.dtype: lambda x, dtype, *_: op.Cast(x, to=dtype),
        _aten._upsample_bilinear2d_aa.vec: resize,
    }


def _present(*values: Any) -> list[Any]:
    return [value for value in values if value is not None]


def _geometry(stride: Any, padding: Any, dilation: Any, groups: int) -> dict[str, Any]:
    return {"strides": [*stride], "pads": [*padding] * 2, "dilations": [*dilation], "group": groups}


def _simplified(model: Any) -> Any:
    """Returns the graph with constants folded, batch norms folded into convolutions, and no idle nodes.

    ONNX Runtime's basic optimizations are those that hold on every machine and give operators of the standard alone.
    They take a second where onnxscript's optimizer takes twenty.
    """
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simplified.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences what libraries say of their own parts: packages that they do without, classes that will change."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
