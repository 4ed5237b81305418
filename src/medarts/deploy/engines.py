"""What runs a network: PyTorch for a run, ONNX Runtime or OpenVINO for an exported file, these without PyTorch.

An engine takes images as stored and returns every output of the network by name:

* masks: ``probabilities`` float32 (B, K, H, W) at the size of the images, ``mask`` uint8 (B, H, W), class indices,
  or (B, K, H, W), 0 or 1, of classes that may overlap;
* findings: ``logits`` float32 (B, F), ``probabilities`` of the network as trained, ``calibrated`` ones, and
  ``decisions`` uint8 (B, F), by Youden's threshold on the calibrated ones (0.5 for findings without).
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from medarts.errors import DataError, EngineError, MedartsError
from medarts.system.process import kept_signal_stack

IMAGE, LIMITS = "image", "limits"
"""Inputs: float32 (B, C, H, W), values as stored; float32 (B, 2), for networks with percentiles alone: the values that
become 0 and 1, nan for the percentiles of each image; of images of several files or slices a pair for each of these."""

Floats = NDArray[np.float32]
Outputs = dict[str, NDArray[Any]]
Runtime = Literal["onnxruntime", "openvino"]
Shape = tuple[int | None, ...]
"""Lengths of axes, None where any is taken."""


class Engine(Protocol):
    """Runs one network."""

    name: str

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns all outputs for images of one size, by name."""


class OnnxRuntimeEngine:
    """An exported network in ONNX Runtime, on the CPU.

    Attributes:
        metadata: of the file.
        inputs: their names.
        shapes: of all inputs and outputs, by name.

    Args:
        model: the file, or its content.
        threads: threads of the CPU; None leaves it to ONNX Runtime.

    Raises:
        DataError: it is no ONNX file that ONNX Runtime can run.
    """

    name = "onnxruntime"

    def __init__(self, model: Path | bytes, *, threads: int | None = None) -> None:
        runtime = _imported("onnxruntime")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about its own optimizer
        # Its threads would otherwise wait actively after a pass, and take cores from what comes next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        content = os.fspath(model) if isinstance(model, Path) else model
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes have no common base
            raise _unusable(model, error) from None
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.inputs = tuple(each.name for each in inputs)
        self._outputs = [each.name for each in outputs]
        self.shapes: dict[str, Shape] = {
            each.name: tuple(length if isinstance(length, int) else None for length in each.shape)
            for each in (*inputs, *outputs)
        }

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns all outputs by name."""
        given = {IMAGE: images_bchw, LIMITS: limits_b2}
        try:
            found = self.run_named({name: given[name] for name in given if name in self.inputs})
        except Exception as error:  # its classes have no common base
            raise failed("ONNX Runtime", images_bchw, error) from None
        return dict(zip(self._outputs, found, strict=True))

    def run_named(self, given: Mapping[str, Floats]) -> list[NDArray[Any]]:
        """Returns all outputs, in their order, for inputs by name."""
        found: list[NDArray[Any]] = self._session.run(None, given)
        return found


class OpenVinoEngine:
    """An exported network in OpenVINO, on the CPU, in fp32.

    Attributes:
        metadata: of the file.
        shapes: of all inputs and outputs, by name.

    Args:
        model: the file, or its content.
        threads: threads of the CPU; None leaves it to OpenVINO.

    Raises:
        DataError: it is no ONNX file that OpenVINO can run.
    """

    name = "openvino"

    def __init__(self, model: Path | bytes, *, threads: int | None = None) -> None:
        core = _imported("openvino").Core()
        # Processors with bfloat16 would otherwise compute in it, and predict other masks than verified.
        options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            content = model.read_bytes() if isinstance(model, Path) else model
            graph = _as_meant(core.read_model(content))
            _refuse_nan(graph, model)
            with kept_signal_stack():
                self._compiled = core.compile_model(graph, "CPU", options)
        except RuntimeError as error:
            raise _unusable(model, error) from None
        metadata = graph.get_rt_info()["framework"] if graph.has_rt_info("framework") else {}
        self.metadata = {key: str(value.value) for key, value in metadata.items()}
        # Of the graph, as compiling adds names of its own; the order stays.
        self._inputs, self._outputs = ([each.get_any_name() for each in side] for side in (graph.inputs, graph.outputs))
        self.shapes: dict[str, Shape] = {
            each.get_any_name(): tuple(
                length.get_length() if length.is_static else None for length in each.get_partial_shape()
            )
            for each in (*graph.inputs, *graph.outputs)
        }

    def run(self, images_bchw: Floats, limits_b2: Floats) -> Outputs:
        """Returns all outputs by name."""
        given = {IMAGE: images_bchw, LIMITS: limits_b2}
        try:
            found = self._compiled({name: given[name] for name in self._inputs})
        except RuntimeError as error:
            raise failed("OpenVINO", images_bchw, error) from None
        return {name: np.array(found[place]) for place, name in enumerate(self._outputs)}


ENGINES: dict[Runtime, type[OnnxRuntimeEngine] | type[OpenVinoEngine]] = {
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVinoEngine,
}
"""What can run an exported file."""


def _as_meant(graph: Any) -> Any:
    """Returns a graph of OpenVINO with the antialiasing of resizes that its reader of ONNX files leaves out."""
    ops = _imported("openvino").opset13
    for node in graph.get_ordered_ops():
        given = node.input_values()
        if node.get_type_name() == "Interpolate" and node.get_attributes()["antialias"]:
            axes = np.array([2, 3])
            size = ops.gather(given[1], axes, np.int64(0))
            node.output(0).replace(ops.interpolate(given[0], size, "bilinear_pillow", "sizes", axes=axes).output(0))
    graph.validate_nodes_and_infer_types()
    return graph


def _refuse_nan(graph: Any, model: Path | bytes) -> None:
    """Refuses weights that are not numbers: OpenVINO limits NaN to 0, so that they would lead to empty masks.

    Raises:
        DataError: there are some.
    """
    constants = (node for node in graph.get_ordered_ops() if node.get_type_name() == "Constant")
    for each in constants:
        if each.get_element_type().is_real() and np.isnan(each.data).any():
            raise _unusable(model, ValueError("its weights are not numbers (NaN)"))


def _imported(package: str) -> Any:
    try:
        return __import__(package)
    except ImportError:
        extra = "openvino" if package == "openvino" else "runtime"
        raise MedartsError(f"{package} is not installed.", fix=f'pip install "medarts[{extra}]"') from None


def _unusable(model: Path | bytes, error: Exception) -> DataError:
    name = model.name if isinstance(model, Path) else "The network"
    reason = " ".join(str(error).split())[:200]
    return DataError(
        f"{name} cannot be run: {reason}", fix="It is damaged or was not written by medarts; export it again."
    )


def failed(runtime: str, images_bchw: Floats, error: Exception) -> EngineError:
    """Returns the error of a runtime that failed on images."""
    number, _, height, width = images_bchw.shape
    reason = " ".join(str(error).split())[:200]
    return EngineError(
        f"{runtime} failed on {number} images of {height} x {width} pixels: {reason}",
        fix="If memory ran out, use smaller batches (--batch 1) or windows (--window 512).",
    )
