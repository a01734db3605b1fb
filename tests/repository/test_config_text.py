"""Configs as people write them: text and JSON, refusals with their lines, hints, and no field forgotten."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.repository.config_text import parse_json, parse_text, with_name
from runtime.repository.fields import HINTS, REFUSED, SUPPORTED, field_uses, without_refused
from runtime.repository.locate import line_of
from runtime.wire.pb import model_config_pb2 as pb

LIMIT = 1 << 20


def refusal(text: str) -> str:
    with pytest.raises(ValueError) as caught:
        parse_text(text.encode(), LIMIT)
    return str(caught.value)


def leaves(message: Any, prefix: str = "") -> Iterator[str]:
    """Every field of a message by its path, down to where the tables stop or there is nothing below."""
    for field in message.fields:
        path = f"{prefix}{field.name}"
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        if path in REFUSED or path in HINTS or inner is None or not inner.fields:
            yield path
        else:
            yield from leaves(inner, f"{path}.")


def test_every_field_of_the_message_is_supported_refused_or_a_hint() -> None:
    found = set(leaves(pb.ModelConfig.DESCRIPTOR))
    placed = SUPPORTED | set(REFUSED) | set(HINTS)
    assert found - placed == set(), "say in fields.py what becomes of these"
    assert placed - found == set(), "fields.py names fields that do not exist"
    assert len(SUPPORTED) + len(REFUSED) + len(HINTS) == len(placed), "one place each"


REFUSED_EXAMPLES = {
    "sequence_batching": "sequence_batching { }",
    "ensemble_scheduling": 'ensemble_scheduling { step { model_name: "a" } }',
    "model_transaction_policy.decoupled": "model_transaction_policy { decoupled: true }",
    "input.allow_ragged_batch": 'input { name: "a" allow_ragged_batch: true }',
    "input.is_shape_tensor": 'input { name: "a" is_shape_tensor: true }',
    "input.is_non_linear_format_io": 'input { name: "a" is_non_linear_format_io: true }',
    "output.is_shape_tensor": 'output { name: "a" is_shape_tensor: true }',
    "output.is_non_linear_format_io": 'output { name: "a" is_non_linear_format_io: true }',
    "batch_input": 'batch_input { target_name: "a" }',
    "batch_output": 'batch_output { target_name: "a" }',
    "cc_model_filenames": 'cc_model_filenames { key: "7.5" value: "m.onnx" }',
    "model_operations": 'model_operations { op_library_filename: "lib.so" }',
    "model_repository_agents": 'model_repository_agents { agents { name: "checksum" } }',
    "instance_group.passive": "instance_group { passive: true }",
}


@pytest.mark.parametrize(("field", "text"), REFUSED_EXAMPLES.items())
def test_what_changes_answers_is_refused_by_name_and_line(field: str, text: str) -> None:
    assert refusal(f"# a comment\n\n{text}\n") == f"config.pbtxt:3: {field} is not supported: {REFUSED[field]}"


def test_every_refused_field_has_an_example() -> None:
    assert set(REFUSED_EXAMPLES) == set(REFUSED)


def test_a_refused_field_in_its_default_is_let_through() -> None:
    text = b'model_transaction_policy { decoupled: false } input { name: "a" allow_ragged_batch: false }'
    assert parse_text(text, LIMIT).hints == ()


def test_hints_are_told_with_their_line_and_skipped() -> None:
    text = b"""response_cache { enable: true }
optimization {
  input_pinned_memory { enable: false }
  cuda { graphs: true }
}
instance_group [
  { kind: KIND_CPU },
  { kind: KIND_CPU
    rate_limiter { priority: 2 } }
]
parameters { key: "enable_mem_arena" value { string_value: "0" } }
parameters: {
  key: "no_such_thing" value { string_value: "1" } }
"""
    hints = {hint.name: hint.line for hint in parse_text(text, LIMIT).hints}
    assert hints == {
        "response_cache": 1,
        "optimization.cuda": 4,
        "instance_group.rate_limiter": 9,
        "parameters 'no_such_thing'": 12,
    }, "pinned memory switched off says nothing that is not so"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('name: "x"\nnonsense: 3', 'config.pbtxt:2:1: Message type "ModelConfig" has no field named "nonsense".'),
        ("input {\n  data_type: TYPE_FOO }", "config.pbtxt:2:14:"),
        ("max_batch_size: 1\nmax_batch_size: 2", "config.pbtxt:2:"),
        ("input {", "config.pbtxt:1:"),
        ('\nbackend: "python"', "config.pbtxt:2: backend 'python' is not served here: write 'onnxruntime'"),
        ('platform: "tensorrt_plan"', "config.pbtxt:1: platform 'tensorrt_plan' is not served here"),
        ("\n\nmax_batch_size: -1", "config.pbtxt:3: max_batch_size -1 must not be negative"),
    ],
)
def test_mistakes_are_told_with_their_place(text: str, words: str) -> None:
    assert refusal(text).startswith(words)


def test_several_refusals_are_told_at_once() -> None:
    text = refusal('input [ { name: "a" },\n { name: "b" allow_ragged_batch: true } ]\nsequence_batching { }')
    assert "config.pbtxt:2: input.allow_ragged_batch" in text
    assert "config.pbtxt:3: sequence_batching" in text


def test_size_and_encoding_are_limited() -> None:
    with pytest.raises(ValueError, match=r"config\.pbtxt: 11 bytes, limit 10"):
        parse_text(b"#" * 11, 10)
    with pytest.raises(ValueError, match="not UTF-8 text at byte 1"):
        parse_text(b"#\xff", LIMIT)
    with pytest.raises(ValueError, match="override config: 11 bytes, limit 10"):
        parse_json(" " * 11, 10)


def test_json_takes_numbers_as_strings_and_either_spelling() -> None:
    written = parse_json(
        '{"max_batch_size": "16", "input": [{"name": "a", "dataType": "TYPE_FP32", "dims": ["3", 4]}]}', LIMIT
    )
    assert written.config.max_batch_size == 16
    assert list(written.config.input[0].dims) == [3, 4]


@pytest.mark.parametrize(
    "text",
    [
        "", "[", "[]", "3", "null", '"x"', "[" * 100_000, '{"nope": 1}', '{"max_batch_size": "x"}',
        '{"max_batch_size": 1e99}', '{"input": {"a": 1}}', '{"input": "x"}', '{"parameters": 3}',
        '{"input": [{"dims": [[1]]}]}', '{"backend": "\\ud800"}', '{"backend": 3}', '{"max_batch_size": true}',
        '{"sequence_batching": {}}', '{"backend": "python"}', '{"max_batch_size": -1}',
    ],
)  # fmt: skip
def test_bad_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^override config: "):
        parse_json(text, LIMIT)


@settings(deadline=None)
@given(st.text(alphabet='{}[]<>:,;"#-\\ \n\tabkeyvlu01.', max_size=60))
def test_any_text_is_a_config_or_a_value_error(text: str) -> None:
    place = "config.pbtxt"
    try:
        parse_text(text.encode(), LIMIT)
    except ValueError as error:
        place = str(error)
    assert place.startswith("config.pbtxt")


@settings(deadline=None)
@given(st.text(alphabet='{}[]<>:,;"#-\\ \n\tabkeyvlu01.', max_size=60))
def test_looking_for_a_line_never_fails(text: str) -> None:
    line = line_of(text, (("a", 0), ("b", "key"), ("k", None)))
    assert 0 <= line <= text.count("\n") + 1


def test_lines_of_all_ways_to_write_a_list() -> None:
    text = """input { name: "a" }
input: <
  name: 'b' dims: [ 1,
    2 ] dims: 3
>
input [ { name: "c" }
  , { name: "d" "e"
    label: -1 } ]
parameters { key: "k}" value: { string_value: "#" } }
parameters { key: "l"
  value: { string_value: "2" } }
"""
    assert line_of(text, (("input", 1),)) == 2
    assert line_of(text, (("input", 1), ("dims", 1))) == 4
    assert line_of(text, (("input", 2),)) == 6
    assert line_of(text, (("input", 3), ("label", None))) == 8
    assert line_of(text, (("parameters", "k}"),)) == 9
    assert line_of(text, (("parameters", "l"), ("string_value", None))) == 11
    assert line_of(text, (("nothing", None),)) == 0


def test_the_name_is_the_folders() -> None:
    assert with_name(pb.ModelConfig(), "m").name == "m"
    with pytest.raises(ValueError, match="'other' is not that of the folder, 'm'"):
        with_name(pb.ModelConfig(name="other"), "m")


def test_refused_fields_can_be_taken_out() -> None:
    written = pb.ModelConfig(name="m", max_batch_size=3)
    written.sequence_batching.SetInParent()
    written.input.add(name="a", allow_ragged_batch=True)
    written.model_transaction_policy.decoupled = True
    clean = without_refused(written)
    assert field_uses(clean) == []
    assert clean.input[0].name == "a"
    assert clean.max_batch_size == 3
    assert written.HasField("sequence_batching"), "the argument is not changed"
