"""Every way to get a request wrong (docs/protocol.md), as bytes over a real connection; and what is odd but right.

The messages are made with tritonclient's own stubs, so they are what its users would send.
"""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from tests.e2e.messages import LEFT_RIGHT, LIMIT_S, add_raw, good, infer, refusal, rpc, to_typed

Change = Callable[[Any], None]

WRONG: list[Any] = []


def wrong(code: str, phrase: str, model: str = "simple") -> Callable[[Change], Change]:
    """Note a change that makes a good request of `model` fail with `code` and a text that holds `phrase`."""

    def note(change: Change) -> Change:
        WRONG.append(pytest.param(model, change, code, phrase, id=change.__name__))
        return change

    return note


@wrong("NOT_FOUND", "Request for unknown model: 'nobody' is not found")
def unknown_model(request: Any) -> None:
    request.model_name = "nobody"


@wrong("NOT_FOUND", "Request for unknown model: '' is not found")
def no_model(request: Any) -> None:
    request.model_name = ""


@wrong("NOT_FOUND", "Request for unknown model: 'simple' is not found: version 7 is not available")
def unknown_version(request: Any) -> None:
    request.model_version = "7"


@wrong("INVALID_ARGUMENT", "failed to get model version from specified version string 'one'")
def version_is_no_number(request: Any) -> None:
    request.model_version = "one"


@wrong("INVALID_ARGUMENT", "'INPUT0' data-type is 'INT64', but model 'simple' expects 'INT32'")
def wrong_datatype(request: Any) -> None:
    request.inputs[0].datatype = "INT64"
    request.raw_input_contents[0] *= 2


@wrong("INVALID_ARGUMENT", "unknown data type 'FLOAT'")
def no_such_datatype(request: Any) -> None:
    request.inputs[0].datatype = "FLOAT"


@wrong("INVALID_ARGUMENT", "'INPUT0' for model 'simple'. Expected [-1, 16], got [1, 15]")
def wrong_shape(request: Any) -> None:
    request.inputs[0].shape[1] = 15
    request.raw_input_contents[0] = bytes(60)


@wrong("INVALID_ARGUMENT", "Expected [-1, 16], got [16]")
def wrong_rank(request: Any) -> None:
    request.inputs[0].shape[:] = [16]


@wrong("INVALID_ARGUMENT", "negative dimension -1")
def negative_dimension(request: Any) -> None:
    request.inputs[0].shape[0] = -1


@wrong("INVALID_ARGUMENT", "more than 1099511627776 elements")
def absurd_dimension(request: Any) -> None:
    request.inputs[0].shape[0] = 2**62


@wrong("INVALID_ARGUMENT", "expected 2 inputs but got 1 inputs")
def missing_input(request: Any) -> None:
    del request.inputs[1], request.raw_input_contents[1]


@wrong("INVALID_ARGUMENT", "missing required input(s) ['INPUT0', 'INPUT1']")
def no_input(request: Any) -> None:
    del request.inputs[:], request.raw_input_contents[:]


@wrong("INVALID_ARGUMENT", "INPUT2")
def extra_input(request: Any) -> None:
    add_raw(request, "INPUT2", "INT32", np.zeros((1, 16), "<i4"))


@wrong("INVALID_ARGUMENT", "missing required input(s) ['INPUT0']")
def misnamed_input(request: Any) -> None:
    request.inputs[0].name = "input0"


@wrong("INVALID_ARGUMENT", "input 'INPUT0' of model 'simple' is given twice")
def doubled_input(request: Any) -> None:
    request.inputs[1].name = "INPUT0"


@wrong("INVALID_ARGUMENT", "batch-size 9 must be >= 1 and <= 8 for 'simple'")
def batch_too_large(request: Any) -> None:
    for index, tensor in enumerate(request.inputs):
        tensor.shape[0] = 9
        request.raw_input_contents[index] *= 9


@wrong("INVALID_ARGUMENT", "batch-size 0 must be >= 1")
def batch_of_nothing(request: Any) -> None:
    for index, tensor in enumerate(request.inputs):
        tensor.shape[0] = 0
        request.raw_input_contents[index] = b""


@wrong("INVALID_ARGUMENT", "batch size 2 does not match the other inputs' 1")
def batches_differ(request: Any) -> None:
    request.inputs[1].shape[0] = 2
    request.raw_input_contents[1] *= 2


@wrong("INVALID_ARGUMENT", "has 63 bytes, expected 64")
def raw_too_short(request: Any) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


@wrong("INVALID_ARGUMENT", "has 65 bytes, expected 64")
def raw_too_long(request: Any) -> None:
    request.raw_input_contents[0] += b"\0"


@wrong("INVALID_ARGUMENT", "'INPUT0' has 64 bytes, expected 0")
def nothing_with_bytes(request: Any) -> None:
    request.inputs[0].shape[0] = 0


@wrong("INVALID_ARGUMENT", "no data for input 'INPUT1'")
def fewer_raws_than_inputs(request: Any) -> None:
    del request.raw_input_contents[1]


@wrong("INVALID_ARGUMENT", "has 15 int_contents, expected 16")
def typed_too_few(request: Any) -> None:
    to_typed(request)
    del request.inputs[0].contents.int_contents[0]


@wrong("INVALID_ARGUMENT", "has 17 int_contents, expected 16")
def typed_too_many(request: Any) -> None:
    to_typed(request)
    request.inputs[0].contents.int_contents.append(1)


@wrong("INVALID_ARGUMENT", "wanted in int_contents, not int64_contents")
def typed_in_the_wrong_field(request: Any) -> None:
    to_typed(request)
    request.inputs[0].contents.int64_contents.extend(request.inputs[0].contents.int_contents)
    del request.inputs[0].contents.int_contents[:]


@wrong("INVALID_ARGUMENT", "holds values 0 to 300, beyond INT8", "echo_int8")
def typed_out_of_range(request: Any) -> None:  # Triton answers 44
    del request.raw_input_contents[:]
    request.inputs[0].contents.int_contents.extend([0, 300])


@wrong("INVALID_ARGUMENT", "'x' is FP16, which has no typed contents", "echo_fp16")
def fp16_in_fp32_contents(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([0, 0])


@wrong("INVALID_ARGUMENT", "'x' is BF16, which has no typed contents", "echo_bf16")
def bf16_in_fp32_contents(request: Any) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([0, 0])


@wrong(
    "INVALID_ARGUMENT",
    "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'simple'",
)
def raw_and_typed_together(request: Any) -> None:
    request.inputs[0].contents.int_contents.append(0)


@wrong("INVALID_ARGUMENT", "unexpected inference output 'OUTPUT2' for model 'simple'")
def unknown_output(request: Any) -> None:
    request.outputs.add(name="OUTPUT2")


@wrong("INVALID_ARGUMENT", "BYTES element of 5 bytes exceeds the 4 left", "echo_bytes")
def bytes_cut_short(request: Any) -> None:
    request.raw_input_contents[0] = LEFT_RIGHT[:-1]


@wrong("INVALID_ARGUMENT", "more than the expected 2 BYTES elements", "echo_bytes")
def bytes_too_many(request: Any) -> None:
    request.raw_input_contents[0] += b"\x01\0\0\0x"


@wrong("INVALID_ARGUMENT", "has 1 BYTES elements, expected 2", "echo_bytes")
def bytes_too_few(request: Any) -> None:
    request.raw_input_contents[0] = LEFT_RIGHT[:9]


@wrong("INVALID_ARGUMENT", "has more than the expected 2", "echo_bytes")
def bytes_with_a_rest(request: Any) -> None:
    request.raw_input_contents[0] += b"\0"


@wrong("INVALID_ARGUMENT", "not UTF-8 text", "echo_bytes")
def bytes_that_are_no_text(request: Any) -> None:
    request.raw_input_contents[0] = b"\x01\0\0\0\xff\x00\0\0\0"


@wrong("INVALID_ARGUMENT", "parameter 'classification' of output 'y' is 0", "classes")
def classification_of_zero(request: Any) -> None:
    request.outputs[0].parameters["classification"].int64_param = 0


@wrong("INVALID_ARGUMENT", "is 'two'", "classes")
def classification_is_no_number(request: Any) -> None:
    request.outputs[0].parameters["classification"].string_param = "two"


@wrong("INVALID_ARGUMENT", "parameter 'priority' is 'high'")
def priority_is_no_number(request: Any) -> None:
    request.parameters["priority"].string_param = "high"


@wrong("INVALID_ARGUMENT", "parameter 'timeout' is -1")
def timeout_is_negative(request: Any) -> None:
    request.parameters["timeout"].int64_param = -1


@wrong("INTERNAL", "onnx runtime error", "picky")
def the_model_fails_on_it(request: Any) -> None:
    request.raw_input_contents[0] = np.array([[7]], "<i8").tobytes()


@wrong("UNIMPLEMENTED", "shared memory is not offered by this server")
def input_in_shared_memory(request: Any) -> None:
    request.inputs[0].parameters["shared_memory_region"].string_param = "region"


@wrong("UNIMPLEMENTED", "shared memory is not offered by this server")
def output_in_shared_memory(request: Any) -> None:
    request.outputs.add(name="OUTPUT0").parameters["shared_memory_region"].string_param = "region"


@pytest.mark.parametrize(("model", "change", "code", "phrase"), WRONG)
def test_a_wrong_request(channel: grpc.Channel, model: str, change: Change, code: str, phrase: str) -> None:
    request = good(model)
    infer(channel, request.SerializeToString())  # so that it is the change that is wrong
    change(request)
    got, text = refusal(lambda: infer(channel, request.SerializeToString()))
    assert (got, phrase in text) == (code, True), text


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe", b"\x0b\x0c"])
def test_a_message_that_cannot_be_parsed(channel: grpc.Channel, message: bytes) -> None:
    code, text = refusal(lambda: infer(channel, message))
    assert (code, "malformed message" in text) == ("INVALID_ARGUMENT", True), text  # Triton: INTERNAL


def test_a_method_that_does_not_exist(channel: grpc.Channel) -> None:
    assert refusal(lambda: rpc(channel, "ModelTrain")(b"", timeout=LIMIT_S))[0] == "UNIMPLEMENTED"


def test_more_raws_than_inputs_pass(channel: grpc.Channel) -> None:
    request = good("simple")
    request.raw_input_contents.append(b"one too many")
    assert len(infer(channel, request.SerializeToString()).outputs) == 2


def test_an_output_that_is_asked_for_twice_is_answered_once(channel: grpc.Channel) -> None:
    request = good("simple")
    for name in ("OUTPUT1", "OUTPUT0", "OUTPUT1"):
        request.outputs.add(name=name)
    assert [output.name for output in infer(channel, request.SerializeToString()).outputs] == ["OUTPUT0", "OUTPUT1"]


def test_no_elements_are_legal(channel: grpc.Channel) -> None:
    request = good("echo_fp32")
    request.inputs[0].shape[:] = [1, 0]
    request.raw_input_contents[0] = b""
    answer = infer(channel, request.SerializeToString())
    assert (list(answer.outputs[0].shape), list(answer.raw_output_contents)) == ([1, 0], [b""])


def test_an_answer_says_whose_it_is(channel: grpc.Channel) -> None:
    request = good("simple")
    request.parameters["camera"].string_param = "north"  # parameters that nobody knows are let through
    answer = infer(channel, request.SerializeToString())
    assert (answer.model_name, answer.model_version, answer.id) == ("simple", "1", "good")
    assert [(output.name, output.datatype, list(output.shape)) for output in answer.outputs] == [
        ("OUTPUT0", "INT32", [1, 16]),
        ("OUTPUT1", "INT32", [1, 16]),
    ]
    assert np.frombuffer(answer.raw_output_contents[0], "<i4").tolist() == list(range(1, 17))


def test_parameters_of_sequences_mean_nothing_to_a_model_without(channel: grpc.Channel) -> None:
    request = good("simple", sequence_id=7)
    request.parameters["sequence_start"].bool_param = True
    assert infer(channel, request.SerializeToString()).id == "good"


def test_typed_contents_are_answered_raw(channel: grpc.Channel) -> None:
    request = good("simple")
    to_typed(request)
    answer = infer(channel, request.SerializeToString())
    assert np.frombuffer(answer.raw_output_contents[1], "<i4").tolist() == list(range(-1, 15))


def test_classification(channel: grpc.Channel) -> None:
    request = good("classes")
    request.outputs[0].parameters["classification"].int64_param = 9
    answer = infer(channel, request.SerializeToString())
    assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == ("BYTES", [1, 4])
    words = [b"4.000000:1:green", b"3.000000:2:blue", b"2.000000:3", b"1.000000:0:red"]
    assert answer.raw_output_contents[0] == b"".join(len(word).to_bytes(4, "little") + word for word in words)
