"""The ONNX form of a model, for readers without torch: made from its exported program, run by onnxruntime.

Two operations have no translation in torch's exporter, and one has a translation that is not exact where it matters;
they are given here, in operations that every ONNX runtime has, so that the models stay as they are.
"""

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.export import ExportedProgram

log = logging.getLogger(__name__)

Inputs = dict[str, Tensor]
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
"""Of the optional extra ``onnx``."""
OUTPUT = "output"
"""Name of the one output of every model."""


def missing_libraries() -> str:
    """Return the libraries of the extra that are not installed, comma separated; empty if all are."""
    return ", ".join(name for name in LIBRARIES if find_spec(name) is None)


def export_onnx(program: "ExportedProgram", path: Path) -> Callable[[Inputs], Tensor] | None:
    """Write a program as an ONNX model and return it as onnxruntime loads it again.

    Inputs carry the names of the features, the one output is :data:`OUTPUT`.

    Args:
        program: Of a model that takes one dictionary of tensors, and returns one tensor.
        path: Ends in ``.onnx``.

    Returns:
        None, with a warning, where the exporter or onnxruntime cannot express the model.

    Raises:
        OSError: The place cannot be written to, or is full.
    """
    names = list(program.example_inputs[0][0])
    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                input_names=names,
                output_names=[OUTPUT],
                custom_translation_table=_translations(),
                verbose=False,
            )
        assert made is not None
        content = _stripped(made.model_proto)
        model = _session(content)
    except Exception as error:  # the exporter and the runtime raise many kinds
        first = (str(error).splitlines() or [type(error).__name__])[0]
        log.warning("no %s in the bundle: ONNX cannot express it (%s)", path.name, first)
        return None
    path.write_bytes(content)
    return model


def load_onnx(path: Path) -> Callable[[Inputs], Tensor]:
    """Return an ONNX model of a bundle as a function of a dictionary of tensors, run by onnxruntime on the CPU."""
    return _session(path.read_bytes())


def _session(content: bytes) -> Callable[[Inputs], Tensor]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; warnings are about its own fusions
    options.enable_cpu_mem_arena = False  # which keeps several times what a large case needs, and is slower there
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Inputs) -> Tensor:
        return torch.from_numpy(session.run([OUTPUT], {name: inputs[name].numpy() for name in names})[0])

    return run


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what the exporter lacks: operation of torch to ONNX operations that say the same."""
    from onnx import TensorProto, helper
    from onnxscript import opset18

    aten, op = torch.ops.aten, cast("Any", opset18)

    def searchsorted(sorted_sequence: Any, self: Any, right: Any = False, side: Any = None) -> Any:
        """Count the knots below a value, or not above it: the place that a search would find."""
        knots = op.Unsqueeze(sorted_sequence, op.Constant(value_ints=[-2]))
        values = op.Unsqueeze(self, op.Constant(value_ints=[-1]))
        below = op.LessOrEqual(knots, values) if right or side == "right" else op.Less(knots, values)
        return op.ReduceSum(op.Cast(below, to=TensorProto.INT64), op.Constant(value_ints=[-1]), keepdims=0)

    def stable_sort(self: Any, stable: Any = True, dim: Any = -1, descending: Any = False) -> Any:  # noqa: ARG001
        """Take the best of all; ONNX says that equal values keep their order."""
        size = op.Reshape(op.Gather(op.Shape(self), dim, axis=0), op.Constant(value_ints=[1]))
        return op.TopK(self, size, axis=dim, largest=descending, sorted=True)

    def log2(self: Any) -> Any:
        """Divide logarithms in double precision.

        In single precision that of a power of 2 may come out below its whole number, and so in another bucket.
        """
        base = op.Constant(value=helper.make_tensor("base", TensorProto.DOUBLE, [], [math.log(2.0)]))
        return op.CastLike(op.Div(op.Log(op.Cast(self, to=TensorProto.DOUBLE)), base), self)

    return {aten.searchsorted.Tensor: searchsorted, aten.sort.stable: stable_sort, aten.log2.default: log2}


def _stripped(model: Any) -> bytes:
    """Return the bytes of a model without what the exporter notes about the source code, paths included."""
    graph = model.graph
    nodes = [*graph.node, *(node for function in model.functions for node in function.node)]
    values = [*graph.value_info, *graph.input, *graph.output, *graph.initializer]
    for owner in (model, graph, *model.functions, *nodes, *values):
        del owner.metadata_props[:]
    content: bytes = model.SerializeToString()
    return content


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter from saying what it does, and which libraries of images it does without."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter, about its own internals
            yield
    finally:
        exporter.setLevel(level)
