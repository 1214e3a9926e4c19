# SPDX-License-Identifier: Apache-2.0
"""Load weights; export, check and run the ONNX file that later chapters and the Android app rely on.

Running needs only numpy and onnxruntime; checking the contract imports onnx; loading weights and exporting, torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from digitnet_cli import ROOT, UserError, first_line  # before onnxruntime, see there

# isort: split
import numpy as np
import onnxruntime

from digitnet_data import CELL_SIZE, NUM_CLASSES, normalize, remake
from digitnet_machine import side_by_side, write_file

if TYPE_CHECKING:
    import onnx
    import torch

FILE_NAME = "sudoku_digitnet.onnx"
INPUT_NAME, OUTPUT_NAME = "input", "logits"
SIGNATURE = {"input": (INPUT_NAME, [1, CELL_SIZE, CELL_SIZE]), "output": (OUTPUT_NAME, [NUM_CLASSES])}  # after N
OPSET = 19
MAX_IR = 10  # what ONNX Runtime 1.18 on Android still reads
MAX_BATCH = 512  # cells in one run: bounds the memory


def open_session(path: Path | str, optimize: bool = True) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU, with one thread; see `side_by_side` for more.

    `optimize=False` runs the exported graph unchanged, which separates its errors from the optimizer's.
    Raises UserError if the file is missing or ONNX Runtime cannot load it.
    """
    if not Path(path).is_file():
        raise UserError(f"no ONNX file {path}: {remake(path, 'export', FILE_NAME)}")
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised, and on a Pi it warns of a missing GPU
    try:  # with the file's bytes, because it takes names in UTF-8 alone
        session = onnxruntime.InferenceSession(Path(path).read_bytes(), options, providers=["CPUExecutionProvider"])
        session._model_path = str(path)  # for messages
        return session
    except Exception as error:  # onnxruntime's errors have no common base class
        if "pthread_create" in str(error):  # no thread can be started
            raise
        raise UserError(
            f"{path} is not an ONNX file that ONNX Runtime can load ({first_line(error)}): "
            f"{remake(path, 'export', FILE_NAME)}"
        ) from None


def run_logits(session: onnxruntime.InferenceSession, inputs: np.ndarray, batch: int = MAX_BATCH) -> np.ndarray:
    """Return the logits, float32 [N, 10], of cells [N, 1, 28, 28], float32 and normalized, or uint8.

    Runs `batch` cells at a time. Raises UserError if a logit is not finite.
    """

    def run(part: np.ndarray) -> np.ndarray:
        return session.run([OUTPUT_NAME], {INPUT_NAME: normalize(part) if part.dtype == np.uint8 else part})[0]

    logits = np.concatenate(side_by_side(run, [inputs[i : i + batch] for i in range(0, len(inputs), batch)]))
    if not np.isfinite(logits).all():
        path = getattr(session, "_model_path", "the ONNX file")
        raise UserError(f"{path} gives logits that are not finite: give the file that was exported")
    return logits


def softmax(logits: np.ndarray) -> np.ndarray:
    """Turn logits [..., 10] into probabilities [..., 10], as clients do."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def classify(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the best class, int64 [N], and its softmax probability, float32 [N], of cells, uint8 [N, 28, 28]."""
    check_signature(session)
    logits = run_logits(session, pixels[:, None])
    return logits.argmax(axis=1), softmax(logits).max(axis=1)


def check_signature(session: onnxruntime.InferenceSession) -> None:
    """Raise UserError if inputs or outputs differ from the contract's."""
    if failures := signature_failures(session):
        path = getattr(session, "_model_path", "the ONNX file")
        raise UserError(f"{path} has another input or output ({'; '.join(failures)}): pass the exported file")


def signature_failures(session: onnxruntime.InferenceSession) -> list[str]:
    """List breaks of the contract that ONNX Runtime alone can see: names, types, dimensions of input and output."""
    ends = (session.get_inputs(), session.get_outputs())
    return compare_signature(*([(value.name, value.type, value.shape) for value in values] for values in ends))


def compare_signature(inputs: list[tuple], outputs: list[tuple]) -> list[str]:
    """List how inputs and outputs, each as name, type and dimensions, differ from the contract's."""
    failures = []
    for role, values in (("input", inputs), ("output", outputs)):
        name, sizes = SIGNATURE[role]
        fixed = [(name, kind, dims[1:]) for name, kind, dims in values]
        if fixed != [(name, "tensor(float)", sizes)] or not (isinstance(values[0][2][0], str) and values[0][2][0]):
            failures.append(f"{role} is {values}, not {name}, tensor(float), [N, {', '.join(map(str, sizes))}]")
    return failures


def load_model(path: Path | str) -> torch.nn.Module:
    """Load a state_dict and return its network in eval mode; never run code from the file.

    Raises UserError if the file is missing, no state_dict, of another network, or has values that are not finite.
    """
    import torch

    from digitnet_model import NETWORKS

    cure = remake(path, "train", *(f"{name}_best.pth" for name in NETWORKS))
    if not Path(path).is_file():
        raise UserError(f"no weights {path}: {cure}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        shapes = {key: value.shape for key, value in state.items()}
    except Exception as error:  # pickle's, zip's and torch's errors have no common base class
        raise UserError(f"{path} is not a readable state_dict ({first_line(error)}): {cure}") from None
    for network in NETWORKS.values():
        model = network()
        if shapes == {key: value.shape for key, value in model.state_dict().items()}:
            model.load_state_dict(state)
            if not all(value.isfinite().all() for value in state.values()):
                raise UserError(f"{path} holds weights that are not finite: {cure}")
            return model.eval()
    raise UserError(f"{path} holds weights of another network than {' or '.join(NETWORKS)}: {cure}")


def export(model: torch.nn.Module, path: Path) -> None:
    """Write `model`, BatchNorm folded, as the one ONNX file of the contract; the old file stays if that fails.

    Raises UserError if the exporter fails or breaks the contract, as when it falls back to another opset with a
    warning.
    """
    import torch

    from digitnet_model import fold_batchnorm

    try:
        program = torch.onnx.export(
            fold_batchnorm(model),
            (torch.zeros(2, 1, CELL_SIZE, CELL_SIZE),),  # a batch of 1 could be frozen into the graph
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,  # its marks need a terminal in UTF-8
            dynamic_shapes={"x": {0: torch.export.Dim("N")}},
        )
        assert program is not None
        drop_traces(proto := program.model_proto)  # made anew at each access
        content = proto.SerializeToString()
    except Exception as error:  # the exporter's errors have no common base class
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = inner
        reason = f"{type(cause).__name__}: {first_line(cause)}"
        move = "" if str(ROOT).isprintable() else f"; it needs a UTF-8 name: rename {ROOT}"
        raise UserError(f"the exporter failed, {path} is unchanged: {reason}{move}") from error
    if failures := contract_failures(content):
        raise UserError(f"the exporter broke the contract, {path} is unchanged: {'; '.join(failures)}")
    write_file(path, content)
    print(f"Exported: {path}")


def drop_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's metadata: it names folders of this machine and is a third of the file."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")


def contract_failures(content: bytes, weights: dict[str, np.ndarray] | None = None) -> list[str]:
    """List every break of the contract in an ONNX file's `content`, one line each.

    With `weights` (the state_dict's arrays by name), also list every weight that the file lacks, adds, or holds with
    other bits: a weight unused by these inputs may matter for others.
    """
    import onnx  # only here: running the file does not need it

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's errors have no common base class
        return [f"it is not an ONNX file: {first_line(error)}"]
    graph = model.graph
    outside = [t.name for t in graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    if outside:  # that file may be lost when this one is copied
        return [f"weights lie in another file: {', '.join(outside)}"]

    failures: list[str] = []
    free: set[str] = set()  # names of the dimensions that are not fixed, in all of the graph
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
        for value in [*inferred.input, *inferred.output, *inferred.value_info]:
            free |= {dim for dim in dimensions(value) if not isinstance(dim, int)}
    except Exception as error:  # the checker's and the shape inference's errors have no common base class
        failures.append(f"onnx.checker refuses it: {first_line(error)}")
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        failures.append(f"operator sets are {opsets}, not opset {OPSET} alone")
    if not 0 < model.ir_version <= MAX_IR:
        failures.append(f"IR version is {model.ir_version}, above {MAX_IR}")
    if model.functions or model.training_info or graph.sparse_initializer:
        failures.append("it holds functions, training steps or sparse weights, which clients need not support")
    if len(free) > 1:
        failures.append(f"the batch is not the only free dimension: {', '.join(sorted(map(repr, free)))}")

    types = {number: f"tensor({name.lower()})" for name, number in onnx.TensorProto.DataType.items()}
    ends = (
        [(value.name, types.get(value.type.tensor_type.elem_type, "no type"), dimensions(value)) for value in values]
        for values in (graph.input, graph.output)
    )
    return failures + compare_signature(*ends) + weight_failures(constants(model), weights)


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    """Return a tensor's dimensions: numbers, or the names of free ones ("" if unnamed)."""
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim]


def constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return every tensor stored in the graph, by name: initializers, and constants of its nodes."""
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        tensors |= {f"{node.output[0]} ({node.op_type})": a.t for a in node.attribute if a.HasField("t")}
    try:
        return {name: numpy_helper.to_array(tensor) for name, tensor in tensors.items()}
    except Exception:  # a tensor of another length than its dimensions say: the checker reports it
        return {}


def weight_failures(held: dict[str, np.ndarray], weights: dict[str, np.ndarray] | None) -> list[str]:
    """List the arrays of `held` that are not finite; with `weights`, also those that it lacks, changes or adds."""
    floats = {name: values for name, values in held.items() if values.dtype.kind == "f"}
    failures = [f"{name} holds values that are not finite" for name in floats if not np.isfinite(floats[name]).all()]
    if weights is None:
        return failures
    for name, expected in weights.items():
        found = held.get(name)
        if found is None:
            failures.append(f"it has no weights {name}")
        elif found.dtype != expected.dtype or found.shape != expected.shape:
            failures.append(
                f"weights {name} are {found.dtype} {list(found.shape)}, not {expected.dtype} {list(expected.shape)}"
            )
        elif different := int((found.view(np.uint32) != expected.view(np.uint32)).sum()):
            with np.errstate(invalid="ignore"):  # infinite minus infinite
                most = float(np.abs(found - expected).max())
            failures.append(f"weights {name}: {different} of {found.size} differ, by up to {most:.1e}")
    extra = {name: values for name, values in floats.items() if values.size > 1 and name not in weights}
    return failures + [f"{name} {list(extra[name].shape)} are not weights of the network" for name in extra]
