"""`spillway infer MODEL`: one request, its answer in words, as JSON, or as .npy files."""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.cli import output
from runtime.cli.server import add_grpc_flags, connect, deadline_of

_CLASSES = re.compile(r"(?P<name>.+):(?P<classes>[1-9][0-9]{0,5})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the flags."""
    add = parser.add_argument
    add("model")
    text = "NAME=@FILE.npy, NAME=JSON or NAME=@FILE:DATATYPE:SHAPE for raw bytes (x=@x.bin:FP32:1x3); once per input"
    add("--input", action="append", default=[], required=True, metavar="NAME=VALUE", help=text)
    text = "only this output; with :CLASSES its top classes instead of the tensor; may be given several times"
    add("--output", action="append", default=[], metavar="NAME[:CLASSES]", help=text)
    add("--version", default="", metavar="N", help="default: the highest that is ready")
    add("--out", metavar="DIR", help="save each output there as NAME.npy")
    add_grpc_flags(parser, timeout_s=60.0)
    add("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Ask once."""
    from runtime.cli import answers  # noqa: PLC0415 - grpc and numpy, which help and completion do without
    from runtime.cli.inputs import given  # noqa: PLC0415

    with connect(args) as client:
        metadata = client.model_metadata(args.model, args.version, deadline_s=deadline_of(args))
        wanted = [wish(text, [tensor.name for tensor in metadata.outputs]) for text in args.output]
        inputs = given(args.input, metadata.inputs)
        begun = time.perf_counter()
        answer = client.infer(
            args.model,
            inputs,
            [name for name, _ in wanted],
            version=args.version,
            deadline_s=deadline_of(args),
            classification={name: classes for name, classes in wanted if classes},
        )
        took_s = time.perf_counter() - begun
    if args.out:
        answers.save(answer, Path(args.out))
    if args.json:
        output.as_json(answers.as_values(answer, took_s))
    else:
        answers.show(answer, took_s)
    return 0


def wish(text: str, names: Sequence[str]) -> tuple[str, int]:
    """Split NAME[:CLASSES]; an output may have a colon in its own name (`softmax:0`)."""
    parts = _CLASSES.fullmatch(text)
    if text in names or parts is None:
        return text, 0
    return parts["name"], int(parts["classes"])
