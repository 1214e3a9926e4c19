"""What `make doctor` says of the exported ONNX file: read as protobuf, by onnx.proto's numbers, without a package."""

from pathlib import Path

from doctor_status import fail, ok, warn

EXTERNAL = 1  # TensorProto.DataLocation: the numbers are in another file


def fields(message: bytes) -> list:
    """The fields of a protobuf message: (number, value), value an int or bytes. Raises ValueError if it is none."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value

    try:
        while at < len(message):
            number, kind = divmod(varint(), 8)
            if kind == 0:
                found.append((number, varint()))
            elif kind in (1, 2, 5):
                size = {1: 8, 5: 4}.get(kind) or 0
                size = varint() if kind == 2 else size
                found.append((number, message[at : at + size]))
                at += size
            else:
                raise ValueError(f"wire type {kind}")
    except IndexError as error:
        raise ValueError("ends too early") from error
    if at != len(message):
        raise ValueError("ends too early")
    return found


def nested(message: bytes, *path: int) -> list:
    """The messages that lie at a path of field numbers: all of them, in their order. Raises ValueError as `fields`."""
    messages = [message]
    for number in path:
        messages = [value for outer in messages for found, value in fields(outer) if found == number]
        if not all(isinstance(value, bytes) for value in messages):
            raise ValueError(f"field {number} is no message")
    return messages


def batch_of(model: bytes) -> object:
    """Batch size that an ONNX file's input declares: a number, or the name of a free dimension, or None.

    Path: graph 7, input 11, type 2, tensor_type 1, shape 2, dim 1, of these the first; dim_value 1, dim_param 2.
    Raises ValueError if `model` is not such a file.
    """
    dimensions = nested(model, 7, 11, 2, 1, 2, 1)
    if not dimensions:
        raise ValueError("no input with a shape")
    sizes = [value for number, value in fields(dimensions[0]) if number == 1]
    names = [name.decode() for name in nested(dimensions[0], 2)]
    return (sizes + names + [None])[0]


def second_files(model: bytes) -> list:
    """Names of the files beside an ONNX file in which it keeps weights; empty if it is whole in itself.

    Path: graph 7, initializer 5; of that data_location 14, and external_data 13, which are pairs of key 1 and
    value 2: the value of "location" is the name. Raises ValueError if `model` is not an ONNX file.
    """
    names = set()
    for tensor in nested(model, 7, 5):
        if (14, EXTERNAL) in fields(tensor):
            pairs = [pair for pair in nested(tensor, 13) if nested(pair, 1) == [b"location"]]
            names.update([name.decode() for pair in pairs for name in nested(pair, 2)] or ["without a name"])
    return sorted(names)


def check_onnx(path: Path) -> tuple:
    """The exported file, if there is one: whole in itself, and its batch free."""
    beside = path.with_name(path.name + ".data")
    if path.exists() and not path.is_file():
        return fail(f"{path} is not a file", "give the exported file itself: --onnx FILE")
    if not path.exists():
        if beside.exists():
            return warn(f"{beside} without its model", f"rm {beside}; make export")
        return ok(f"{path}: not made yet")
    try:
        model = path.read_bytes()
        batch, others = batch_of(model), second_files(model)
    except OSError as error:
        return fail(f"{path} cannot be read ({error.strerror})", f"see to its rights: ls -l {path}")
    except ValueError as error:
        return fail(f"{path} is no ONNX file ({error})", f"rm {path}; make export")
    if others:
        cure = f"rm {path}; make export: it writes one file (external_data=False)"
        return fail(f"{path} keeps its weights in a second file, {', '.join(others)}, and is nothing without it", cure)
    if isinstance(batch, int):
        return fail(f"{path} takes batches of {batch} only", f"rm {path}; make export: it leaves the batch free")
    if beside.exists():
        return warn(f"{beside}: a leftover, the model does without it", f"rm {beside}")
    return ok(f"{path}: one file, free batch")
