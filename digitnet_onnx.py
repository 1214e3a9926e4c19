"""The exported file: the contract that later chapters and the Android app rely on, and how it is run.

Needs numpy, onnx and onnxruntime, not torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

from digitnet_cli import UserError
from digitnet_data import CELL_SIZE, NUM_CLASSES, normalize

INPUT_NAME, OUTPUT_NAME = "input", "logits"
OPSET = 19
MAX_IR = 10  # what ONNX Runtime 1.18 on Android still reads
MAX_BATCH = 512  # cells in one run: bounds the memory


def open_session(path: Path | str, threads: int = 1) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the CPU. One thread by default: for so small a network more cost more than they give."""
    if not Path(path).is_file():
        raise UserError(f"no ONNX file {path}: make it with `make export` (or python3 03_Training.py)")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: on a Pi it warns of a GPU that is not there
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not an ONNX file that ONNX Runtime can load: export it again ({reason})") from None


def run_logits(session: onnxruntime.InferenceSession, inputs: np.ndarray) -> np.ndarray:
    """Normalized cells, float32 [N, 1, 28, 28] -> logits, float32 [N, 10], in one run."""
    return session.run([OUTPUT_NAME], {INPUT_NAME: inputs})[0]


def classify(session: onnxruntime.InferenceSession, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 cells [N, 28, 28] -> the best class, int64 [N], and its softmax probability, float32 [N]."""
    batches = [pixels[i : i + MAX_BATCH, None] for i in range(0, len(pixels), MAX_BATCH)]
    logits = np.concatenate([run_logits(session, normalize(batch)) for batch in batches])
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return logits.argmax(axis=1), probabilities.max(axis=1)


def contract_failures(path: Path | str) -> list[str]:
    """Every way in which the file at `path` breaks the contract, one line each; empty if it keeps it."""
    import onnx  # only here: running the file does not need it

    try:
        model = onnx.load(str(path), load_external_data=False)
        outside = [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
        if outside:  # the checker would look for that file, and the file may be lost when this one is copied
            return [f"weights lie in another file: {', '.join(outside)}"]
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # protobuf's, checker's and shape inference's errors have no common base class
        return [f"onnx.checker refuses it: {' '.join(str(error).split())[:200]}"]

    failures = []
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets != {"": OPSET}:
        failures.append(f"operator sets are {opsets}, not opset {OPSET} alone")
    if model.ir_version > MAX_IR:
        failures.append(f"IR version is {model.ir_version}, above {MAX_IR}")

    expected = {
        "input": (model.graph.input, INPUT_NAME, [1, CELL_SIZE, CELL_SIZE]),
        "output": (model.graph.output, OUTPUT_NAME, [NUM_CLASSES]),
    }
    for role, (values, name, sizes) in expected.items():
        if [value.name for value in values] != [name]:
            failures.append(f"{role}s are named {[value.name for value in values]}, not ['{name}']")
            continue
        tensor = values[0].type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim]
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            failures.append(f"{name} is {onnx.TensorProto.DataType.Name(tensor.elem_type)}, not FLOAT")
        if len(dims) != len(sizes) + 1 or dims[1:] != sizes or not isinstance(dims[0], str) or not dims[0]:
            failures.append(f"{name} has dimensions {dims}, not [N, {', '.join(map(str, sizes))}] with N free")
    return failures
