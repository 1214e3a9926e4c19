# SPDX-License-Identifier: Apache-2.0
"""Mutants for test_mutants.py: copies of an exported model with one change each."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE

# --- how a model is changed ------------------------------------------------------------------------


def weight(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def replace(model, name, values):
    tensor = weight(model, name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def nodes(model, kind):
    return [node for node in model.graph.node if node.op_type == kind]


def attribute(node, **values):
    """Set attributes of `node`; None removes one."""
    kept = [a for a in node.attribute if a.name not in values]
    new = [helper.make_attribute(name, value) for name, value in values.items() if value is not None]
    del node.attribute[:]
    node.attribute.extend(kept + new)


def constant(model, name, values):
    """Add a tensor; floats become float32."""
    values = np.float32(values) if isinstance(values, float) else np.asarray(values)
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    return name


def insert_before(model, node, kind, *more, **attributes):
    """Insert a node of `kind` between `node` and its first input."""
    at = next(i for i, other in enumerate(model.graph.node) if other.output[0] == node.output[0])
    new = helper.make_node(kind, [node.input[0], *more], [f"mutant_{kind}_{len(model.graph.node)}"], **attributes)
    node.input[0] = new.output[0]
    model.graph.node.insert(at, new)
    return model.graph.node[at]


def at_input(model, kind, *more, **attributes):
    return insert_before(model, nodes(model, "Conv")[0], kind, *more, **attributes)


def insert_after_all(model, kind, *more, **attributes):
    last = model.graph.node[-1]
    last.output[0] = "mutant_raw"
    model.graph.node.append(helper.make_node(kind, ["mutant_raw", *more], ["logits"], **attributes))


def bypass(model, node):
    """Remove `node`: consumers of its output read its input."""
    for other in model.graph.node:
        other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
    model.graph.node.remove(node)


def rename(model, values, new):
    old = values[0].name
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    values[0].name = new


# --- the mutants -----------------------------------------------------------------------------------


def weight_mutants(model):
    """Yield (name, change) for every tensor of weights."""
    for tensor in [t for t in model.graph.initializer if t.data_type == FLOAT and t.dims]:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        flat, sizes = values.ravel(), np.argsort(np.abs(values), axis=None)
        chosen = {0: "first", values.size - 1: "last"}  # by place: one that is two of these is taken once
        chosen |= {sizes[0]: "smallest", sizes[len(sizes) // 2]: "median", sizes[-1]: "largest"}
        for at, which in chosen.items():
            changed = flat.copy()
            changed[at] *= 1.01
            yield f"{name}: {which} weight +1 %", (name, changed.reshape(values.shape))
        last_bit = flat.copy()
        last_bit.view(np.uint32)[values.size // 2] ^= 1
        step = np.abs(values).max() / 127
        for what, changed in {
            "last bit of one weight": last_bit.reshape(values.shape),
            "two channels swapped": values[[1, 0, *range(2, len(values))]],
            "channels reversed": values[::-1],
            "zeroed": np.zeros_like(values),
            "negated": -values,
            "all +1e-6": values * np.float32(1 + 1e-6),
            "rounded to float16": values.astype(np.float16).astype(np.float32),
            "rounded to int8": (np.round(values / step) * step).astype(np.float32),
            "one NaN": np.where(np.arange(values.size).reshape(values.shape) == 0, np.float32(np.nan), values),
            "one infinite": np.where(np.arange(values.size).reshape(values.shape) == 0, np.float32(np.inf), values),
            "kept as float64": values.astype(np.float64),
            "one row short": values[:-1],
        }.items():
            yield f"{name}: {what}", (name, changed)
        if values.ndim == 4:
            yield f"{name}: kernels transposed", (name, values.swapaxes(2, 3))
            yield f"{name}: kernels mirrored", (name, values[..., ::-1])
        if values.ndim == 2:
            yield f"{name}: transposed", (name, values.T)


GRAPH_MUTANTS = {
    # the first and second convolution, pool, activation, mean, last layer
    **{f"conv {i}: padding {pads}": lambda m, i=i, pads=pads: attribute(nodes(m, "Conv")[i], pads=pads)
       for i in (0, 1) for pads in ([2, 2, 0, 0], [0, 0, 2, 2], [1, 2, 1, 0], [0, 0, 0, 0], [2, 2, 2, 2])},
    **{f"conv {i}: reflected at the edge": lambda m, i=i: (
        insert_before(m, nodes(m, "Conv")[i], "Pad", constant(m, f"p{i}", [0, 0, 1, 1, 0, 0, 1, 1]),
                      mode="reflect"), attribute(nodes(m, "Conv")[i], pads=[0, 0, 0, 0])) for i in (0, 1)},
    **{f"conv {i}: padded with paper": lambda m, i=i: (
        insert_before(m, nodes(m, "Conv")[i], "Pad", constant(m, f"p{i}", [0, 0, 1, 1, 0, 0, 1, 1]),
                      constant(m, f"v{i}", 1.0)), attribute(nodes(m, "Conv")[i], pads=[0, 0, 0, 0]))
       for i in (0, 1)},
    **{f"conv {i}: dilated": lambda m, i=i: attribute(nodes(m, "Conv")[i], dilations=[2, 2], pads=[2, 2, 2, 2])
       for i in (0, 1)},
    **{f"conv {i}: bias forgotten": lambda m, i=i: nodes(m, "Conv")[i].input.pop() for i in (0, 1)},
    "padding by name (SAME_UPPER)": lambda m: attribute(nodes(m, "Conv")[0], pads=None, auto_pad="SAME_UPPER"),
    "pool of the mean": lambda m: (setattr(nodes(m, "MaxPool")[0], "op_type", "AveragePool"),
                                   attribute(nodes(m, "AveragePool")[0], storage_order=None, dilations=None)),
    "pool of 3x3": lambda m: attribute(nodes(m, "MaxPool")[0], kernel_shape=[3, 3], pads=[1, 1, 0, 0]),
    "pool takes every second pixel": lambda m: attribute(nodes(m, "MaxPool")[0], kernel_shape=[1, 1]),
    "pool moved by a pixel": lambda m: attribute(nodes(m, "MaxPool")[0], pads=[1, 1, 0, 0], ceil_mode=0),
    "pool left out": lambda m: bypass(m, nodes(m, "MaxPool")[0]),
    "pool rounds sizes up": lambda m: attribute(nodes(m, "MaxPool")[0], ceil_mode=1),
    **{f"activation {i} left out": lambda m, i=i: bypass(m, nodes(m, "Relu")[i]) for i in (0, 1)},
    **{f"activation {i} is {kind}": lambda m, i=i, kind=kind: setattr(nodes(m, "Relu")[i], "op_type", kind)
       for i in (0, 1) for kind in ("LeakyRelu", "Elu", "Abs", "Softplus", "Sigmoid", "HardSwish")},
    "activation is the tanh": lambda m: setattr(nodes(m, "Relu")[1], "op_type", "Tanh"),
    **{f"mean is {kind}": lambda m, kind=kind: setattr(nodes(m, "ReduceMean")[0], "op_type", kind)
       for kind in ("ReduceMax", "ReduceL2", "ReduceLogSumExp")},
    "mean over rows and batch": lambda m: replace(m, nodes(m, "ReduceMean")[0].input[1], [0, 2]),
    "last layer x 1.01": lambda m: attribute(nodes(m, "Gemm")[0], alpha=1.01),
    "last bias x 1.01": lambda m: attribute(nodes(m, "Gemm")[0], beta=1.01),
    "last bias left out": lambda m: nodes(m, "Gemm")[0].input.pop(),
    "last layer not transposed": lambda m: attribute(nodes(m, "Gemm")[0], transB=0),
    # before the input
    "normed twice": lambda m: insert_before(m, at_input(m, "Div", constant(m, "s", 0.5)), "Sub", constant(m, "c", 0.5)),
    "expects 0 to 255": lambda m: at_input(m, "Div", constant(m, "s", 127.5)),
    "expects light on dark": lambda m: at_input(m, "Neg"),
    "input transposed": lambda m: at_input(m, "Transpose", perm=[0, 1, 3, 2]),
    "input mirrored": lambda m: at_input(m, "Gather", constant(m, "i", np.arange(27, -1, -1)), axis=3),
    "input moved by a pixel": lambda m: at_input(m, "Gather", constant(m, "i", np.r_[1:28, 0]), axis=2),
    "input clipped": lambda m: at_input(m, "Clip", constant(m, "lo", -0.9), constant(m, "hi", 0.9)),
    "input rounded to float16": lambda m: insert_before(
        m, at_input(m, "Cast", to=FLOAT), "Cast", to=TensorProto.FLOAT16),
    "input rounded to 8 levels": lambda m: insert_before(
        m, insert_before(m, at_input(m, "Div", constant(m, "s", 4.0)), "Round"), "Mul", "s"),
    "sees the whole batch's mean": lambda m: at_input(m, "ReduceMean", constant(m, "a", [0]), keepdims=1),
    "Dropout before the last layer": lambda m: insert_before(m, nodes(m, "Gemm")[0], "Dropout"),
    # after the logits
    "softmax added": lambda m: insert_after_all(m, "Softmax", axis=1),
    "logarithm of softmax added": lambda m: insert_after_all(m, "LogSoftmax", axis=1),
    "sigmoid added": lambda m: insert_after_all(m, "Sigmoid"),
    "Identity after the logits": lambda m: insert_after_all(m, "Identity"),
    "logits clipped": lambda m: insert_after_all(m, "Clip", constant(m, "lo", -2.0), constant(m, "hi", 2.0)),
    "logits rounded": lambda m: insert_after_all(m, "Round"),
    "logits cooled": lambda m: insert_after_all(m, "Div", constant(m, "t", 1.001)),
    "logits moved by 0.01": lambda m: insert_after_all(m, "Add", constant(m, "t", 0.01)),
    "classes 1 and 7 swapped": lambda m: insert_after_all(
        m, "Gather", constant(m, "i", [0, 7, 2, 3, 4, 5, 6, 1, 8, 9]), axis=1),
    "classes 1 to 9, then blank": lambda m: insert_after_all(m, "Gather", constant(m, "i", np.r_[1:10, 0]), axis=1),
    "nine classes": lambda m: insert_after_all(m, "Gather", constant(m, "i", np.arange(9)), axis=1),
    # the contract
    "input renamed": lambda m: rename(m, m.graph.input, "image"),
    "output renamed": lambda m: rename(m, m.graph.output, "scores"),
    **{f"batch frozen to {n}": lambda m, n=n: [setattr(v.type.tensor_type.shape.dim[0], "dim_value", n)
                                              for v in (*m.graph.input, *m.graph.output)] for n in (1, 2, 512)},
    "batch frozen at the input": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 2),
    "batch frozen inside": lambda m: replace(m, nodes(m, "Reshape")[0].input[1], [2, 32]),
    "batch of no name": lambda m: m.graph.input[0].type.tensor_type.shape.dim[0].ClearField("dim_param"),
    "output of another batch": lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[0], "dim_param", "M"),
    "height free": lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_param", "H"),
    "classes free": lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_param", "C"),
    "input without dimensions": lambda m: m.graph.input[0].type.tensor_type.ClearField("shape"),
    "output without dimensions": lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
    "output said to be 11 wide": lambda m: setattr(m.graph.output[0].type.tensor_type.shape.dim[1], "dim_value", 11),
    "second input": lambda m: m.graph.input.append(helper.make_tensor_value_info("mask", FLOAT, [1])),
    "weights as inputs": lambda m: m.graph.input.append(helper.make_tensor_value_info("net.0.bias", FLOAT, [16])),
    "second output": lambda m: m.graph.output.append(helper.make_tensor_value_info("relu_1", FLOAT, ["N", 32, 14, 14])),
    "input in float64": lambda m: (setattr(m.graph.input[0].type.tensor_type, "elem_type", DOUBLE),
                                   at_input(m, "Cast", to=FLOAT)),
    "input in bytes": lambda m: (setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.UINT8),
                                 at_input(m, "Cast", to=FLOAT)),
    "output in float64": lambda m: (setattr(m.graph.output[0].type.tensor_type, "elem_type", DOUBLE),
                                    insert_after_all(m, "Cast", to=DOUBLE)),
    **{f"opset {n}": lambda m, n=n: setattr(m.opset_import[0], "version", n) for n in (11, 17, 18, 20, 21)},
    "opset of ai.onnx.ml, too": lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3)),
    "no opset": lambda m: m.ClearField("opset_import"),
    **{f"IR {n}": lambda m, n=n: setattr(m, "ir_version", n) for n in (0, 11, 12, 13)},
    "an operator of its own": lambda m: (setattr(nodes(m, "Relu")[0], "domain", "my.own"),
                                         m.opset_import.append(helper.make_opsetid("my.own", 1))),
    "an operator that is none": lambda m: setattr(nodes(m, "Relu")[0], "op_type", "Rectify"),
    "nodes out of order": lambda m: m.graph.node.insert(0, m.graph.node.pop()),
    "last node lost": lambda m: m.graph.node.pop(),
    "a weight lost": lambda m: m.graph.initializer.remove(weight(m, "net.3.bias")),
    "a weight too many": lambda m: constant(m, "net.9.weight", np.zeros((10, 10), np.float32)),
    "a weight twice": lambda m: m.graph.initializer.append(weight(m, "net.3.bias")),
    "weights renamed": lambda m: rename(m, [weight(m, "net.0.bias")], "bias"),
    "training steps": lambda m: m.training_info.add(),
    "sparse weights": lambda m: m.graph.sparse_initializer.add(
        values=numpy_helper.from_array(np.ones(1, np.float32), "sparse"),
        indices=numpy_helper.from_array(np.zeros(1, np.int64), "sparse_i"), dims=[3]),
    "nodes renamed": lambda m: [setattr(node, "name", f"n{i}") for i, node in enumerate(m.graph.node)],
    "metadata added": lambda m: m.metadata_props.add(key="author", value="somebody"),
    "producer changed": lambda m: setattr(m, "producer_name", "somebody"),
}  # fmt: skip


def scaled(model, name, factor):
    replace(model, name, numpy_helper.to_array(weight(model, name)) * np.float32(factor))


# Of DigitNetV2's own layers: it standardises each cell, its convolutions take strides, its mean is over a window.
V2_MUTANTS = {
    "not standardised": lambda m: nodes(m, "Conv")[0].input.__setitem__(0, "input"),
    "mean left in": lambda m: bypass(m, nodes(m, "Sub")[0]),
    "mean over rows alone": lambda m: nodes(m, "ReduceMean")[0].input.__setitem__(1, constant(m, "r", [2])),
    "mean over the batch, too": lambda m: nodes(m, "ReduceMean")[0].input.__setitem__(1, constant(m, "r", [0, 2, 3])),
    "largest for the mean": lambda m: setattr(nodes(m, "ReduceMean")[0], "op_type", "ReduceMax"),
    "absolute values for the norm": lambda m: setattr(nodes(m, "ReduceL2")[0], "op_type", "ReduceL1"),
    "squares for the norm": lambda m: setattr(nodes(m, "ReduceL2")[0], "op_type", "ReduceSumSquare"),
    "variance's n - 1": lambda m: scaled(m, nodes(m, "Div")[0].input[1], (783 / 784) ** 0.5),
    "floor left out": lambda m: bypass(m, nodes(m, "Add")[0]),
    "floor + 1 %": lambda m: scaled(m, nodes(m, "Add")[0].input[1], 1.01),
    "floor of half": lambda m: scaled(m, nodes(m, "Add")[0].input[1], 0.5),
    **{f"conv {i}: stride at {pads}": lambda m, i=i, pads=pads: attribute(nodes(m, "Conv")[i], pads=pads)
       for i in (1, 2, 3) for pads in ([2, 2, 0, 0], [0, 0, 2, 2])},
    "conv 0: dilated": lambda m: attribute(nodes(m, "Conv")[0], dilations=[2, 2], pads=[2, 2, 2, 2]),
    "pool of the mean": lambda m: (setattr(nodes(m, "MaxPool")[0], "op_type", "AveragePool"),
                                   attribute(nodes(m, "AveragePool")[0], storage_order=None, dilations=None)),
    "largest for the last mean": lambda m: (setattr(nodes(m, "AveragePool")[0], "op_type", "MaxPool"),
                                            attribute(nodes(m, "MaxPool")[1], count_include_pad=None)),
    "last mean of 2x2": lambda m: attribute(nodes(m, "AveragePool")[0], kernel_shape=[2, 2]),
    **{f"activation {i} left out": lambda m, i=i: bypass(m, nodes(m, "Relu")[i]) for i in range(4)},
}  # fmt: skip


def file_mutants(content, model):
    """Yield (name, bytes): the file truncated, and with single bits of the weights flipped."""
    for part in (0, 1, 100, len(content) // 4, len(content) // 2, 3 * len(content) // 4, len(content) - 1):
        yield f"cut after {part} bytes", content[:part]
    yield "another kind of file", b"PK\x03\x04" + content[4:]
    yield "zeros in the middle", content[:5000] + bytes(1000) + content[6000:]
    starts = {t.name: content.index(t.raw_data) for t in model.graph.initializer if t.data_type == FLOAT}
    sizes = {t.name: len(t.raw_data) for t in model.graph.initializer}
    rng = np.random.default_rng(0)
    for name, start in starts.items():
        for at in rng.integers(0, sizes[name], 3):
            bit = int(rng.integers(8))
            changed = bytearray(content)
            changed[start + at] ^= 1 << bit
            yield f"{name}: bit {bit} of byte {at} turned over", bytes(changed)


def changed(original: bytes, changes: dict) -> dict[str, bytes]:
    """Apply each of `changes` (name -> what is done to a model), and every change of a weight, to `original`."""
    mutants = {}
    new_weights = weight_mutants(onnx.load_from_string(original))
    weights = {name: lambda m, new=new: replace(m, *new) for name, new in new_weights}
    for name, change in (weights | changes).items():
        mutant = onnx.load_from_string(original)
        change(mutant)
        mutants[name] = mutant.SerializeToString()
    return mutants


def digitnet_mutants(original: bytes, folder: Path) -> dict[str, bytes]:
    """Every mutant's file by its name; `folder` takes files on the way."""
    mutants = changed(original, GRAPH_MUTANTS)
    mutants |= dict(file_mutants(original, onnx.load_from_string(original)))
    outside = onnx.load_from_string(original)
    onnx.save(outside, folder / "out.onnx", save_as_external_data=True, size_threshold=0, location="weights.data")
    mutants["weights in a second file"] = (folder / "out.onnx").read_bytes()
    return mutants


def digitnetv2_mutants(original: bytes) -> dict[str, bytes]:
    """Return the mutants of DigitNetV2: of its weights, and of layers that DigitNet lacks."""
    return changed(original, V2_MUTANTS)
