"""Completion of configs from graphs: Triton's rule, and what its users get wrong."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import LoadFailed
from runtime.core.tensor import DATA_TYPES
from runtime.core.verdict import GraphFacts, GraphTensor
from runtime.repository.complete import can_batch, complete
from runtime.wire.pb import model_config_pb2 as pb
from tests.fakes.trial import graph, tensor
from tests.repository.configs import config

IMAGE = graph([tensor("x", (-1, 3, 8, 8))], [tensor("y", (-1, 10))])


def completed(text: str, facts: GraphFacts = IMAGE, default: int = 4) -> pb.ModelConfig:
    return complete(config(text), facts, default_max_batch_size=default)


def refusal(text: str, facts: GraphFacts = IMAGE) -> str:
    with pytest.raises(LoadFailed) as caught:
        completed(text, facts)
    return caught.value.reason


def test_nothing_written_and_a_dynamic_first_axis_gives_batching() -> None:
    full = completed("")
    assert full.max_batch_size == 4
    assert full.HasField("dynamic_batching")
    assert list(full.input[0].dims) == [3, 8, 8]
    assert full.input[0].data_type == pb.TYPE_FP32
    assert list(full.output[0].dims) == [10]
    assert full.version_policy.latest.num_versions == 1
    assert full.default_model_filename == "model.onnx"


@pytest.mark.parametrize(
    "facts",
    [
        graph([tensor("x", (1, 3))], [tensor("y", (1, 2))]),
        graph([tensor("x", (-1, 3))], [tensor("y", (1, 2))]),
        graph([tensor("x", (-1, 3)), tensor("z", (2,))], [tensor("y", (-1, 2))]),
        graph([tensor("x", ())], [tensor("y", (-1,))]),
        graph([], [tensor("y", (-1,))]),
    ],
)
def test_a_fixed_first_axis_anywhere_gives_no_batching(facts: GraphFacts) -> None:
    full = completed("", facts)
    assert not can_batch(facts)
    assert full.max_batch_size == 0
    assert not full.HasField("dynamic_batching")
    assert [list(entry.dims) for entry in full.input] == [list(each.shape or (1,)) for each in facts.inputs]


@pytest.mark.parametrize(("default", "is_dynamic"), [(0, False), (1, False), (2, True)])
def test_dynamic_batching_needs_room_for_two(default: int, *, is_dynamic: bool) -> None:
    full = completed("", default=default)
    assert full.max_batch_size == default
    assert full.HasField("dynamic_batching") == is_dynamic


def test_a_batch_limit_alone_is_kept_and_switches_batching_on() -> None:
    full = completed("max_batch_size: 32")
    assert full.max_batch_size == 32
    assert full.HasField("dynamic_batching")


def test_a_complete_config_is_taken_at_its_word() -> None:
    text = """
        input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3, 8, 8 ] }
        output { name: "y" data_type: TYPE_FP32 dims: [ -1, 10 ] }"""
    full = completed(text)
    assert full.max_batch_size == 0
    assert not full.HasField("dynamic_batching")
    with_limit = completed(
        """max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: [ 3, 8, 8 ] }
        output { name: "y" data_type: TYPE_FP32 dims: [ 10 ] }"""
    )
    assert not with_limit.HasField("dynamic_batching"), "Triton: no scheduler named, each request runs alone"


def test_an_input_with_full_dims_tells_that_there_is_no_batch_axis() -> None:
    full = completed('input { name: "x" dims: [ -1, 3, 8, 8 ] }')
    assert full.max_batch_size == 0
    assert list(full.output[0].dims) == [-1, 10]


def test_an_input_without_the_first_axis_tells_that_it_is_the_batch() -> None:
    full = completed('input { name: "x" dims: [ 3, 8, 8 ] }')
    assert full.max_batch_size == 4


def test_some_inputs_named_only() -> None:
    facts = graph([tensor("a", (-1, 2)), tensor("b", (-1, 3), "INT64")], [tensor("y", (-1, 1)), tensor("z", (-1, 5))])
    full = completed('input { name: "b" } output { name: "z" }', facts)
    assert [entry.name for entry in full.input] == ["b", "a"]
    assert full.input[0].data_type == pb.TYPE_INT64
    assert [entry.name for entry in full.output] == ["z"], "a list of outputs is a choice"


def test_scalars_get_dims_of_one_and_a_reshape() -> None:
    full = completed("", graph([tensor("x", (-1,))], [tensor("y", (-1, 2))]))
    assert list(full.input[0].dims) == [1]
    assert full.input[0].HasField("reshape")
    assert not full.input[0].reshape.shape
    stated = completed('input { name: "x" dims: [ 1 ] }', graph([tensor("x", ())], [tensor("y", (2,))]))
    assert stated.input[0].HasField("reshape")


def test_a_free_size_takes_the_fixed_one_of_the_graph() -> None:
    full = completed('max_batch_size: 2 input { name: "x" dims: [ -1, 8, -1 ] } output { name: "y" dims: [ -1 ] }')
    assert list(full.input[0].dims) == [3, 8, 8]
    assert list(full.output[0].dims) == [10]


def test_outputs_of_unknown_rank_are_served_and_inputs_are_not() -> None:
    full = completed("", graph([tensor("x", (2,))], [tensor("y", None)]))
    assert list(full.output[0].dims) == [-1]
    assert "no known rank" in refusal("", graph([tensor("x", None)], [tensor("y", (2,))]))
    stated = 'input { name: "x" data_type: TYPE_FP32 dims: [ 5 ] }'
    assert list(completed(stated, graph([tensor("x", None)], [tensor("y", (2,))])).input[0].dims) == [5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'max_batch_size: 8 input { name: "x" dims: [ -1, 3, 8, 8 ] }',
            "with max_batch_size 8 dims leave out the batch axis, write dims: [ 3, 8, 8 ]",
        ),
        (
            'max_batch_size: 8 input { name: "x" dims: [ 1, 3, 8, 8 ] }',
            "with max_batch_size 8 dims leave out the batch axis, write dims: [ 3, 8, 8 ]",
        ),
        (
            """input { name: "x" data_type: TYPE_FP32 dims: [ 3, 8, 8 ] }
            output { name: "y" data_type: TYPE_FP32 dims: [ 10 ] }""",
            "without max_batch_size dims are the full shape, write dims: [ -1, 3, 8, 8 ], or set max_batch_size",
        ),
        ('max_batch_size: 8 input { name: "x" dims: [ 8, 8, 3 ] }', "write dims: [ 3, 8, 8 ]"),
        ('input { name: "x" data_type: TYPE_FP64 }', "write data_type: TYPE_FP32"),
        ('input { name: "z" }', "input 'z' is not in the graph, whose inputs are ['x']"),
        ('output { name: "z" }', "output 'z' is not in the graph, whose outputs are ['y']"),
        ('input { name: "x" } input { name: "x" }', "input 'x' is listed twice"),
        ('input { name: "x" optional: true }', "the graph cannot run without it"),
        (
            'max_batch_size: 8 input { name: "x" dims: [ 3, 8, 8 ] reshape { shape: [ 192 ] } }',
            "has reshape shape [192]",
        ),
    ],
)
def test_contradictions_are_explained(text: str, words: str) -> None:
    assert words in refusal(text)


def test_a_batch_limit_needs_a_dynamic_first_axis() -> None:
    facts = graph([tensor("x", (1, 3))], [tensor("y", (1, 2))])
    reason = refusal("max_batch_size: 8", facts)
    assert "write max_batch_size: 0 and dims: [ 1, 3 ]" in reason
    assert "export the model with a dynamic first axis" in reason
    assert "output 'y'" in reason, "every contradiction is told at once"


def test_types_that_the_protocol_cannot_carry_are_refused_unless_left_out() -> None:
    facts = graph(
        [tensor("x", (-1, 3))],
        [tensor("label", (-1,), "INT64"), tensor("scores", (-1,), "seq(map(int64,tensor(float)))")],
    )
    assert "list only the other outputs" in refusal("", facts)
    assert [entry.name for entry in completed('output { name: "label" }', facts).output] == ["label"]


def test_the_argument_is_not_changed() -> None:
    written = config('input { name: "x" }')
    before = written.SerializeToString(deterministic=True)
    complete(written, IMAGE, default_max_batch_size=4)
    assert written.SerializeToString(deterministic=True) == before


shapes = st.one_of(st.none(), st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=3).map(tuple))
datatypes = st.sampled_from(sorted(DATA_TYPES))


@st.composite
def graphs(draw: st.DrawFn) -> GraphFacts:
    def some(prefix: str, least: int) -> tuple[GraphTensor, ...]:
        count = draw(st.integers(least, 3))
        return tuple(tensor(f"{prefix}{index}", draw(shapes), draw(datatypes)) for index in range(count))

    return GraphFacts(inputs=some("x", 0), outputs=some("y", 1))


@st.composite
def configs(draw: st.DrawFn, facts: GraphFacts) -> pb.ModelConfig:
    written = pb.ModelConfig(name="m", max_batch_size=draw(st.sampled_from([0, 0, 1, 8])))
    for each in facts.inputs + facts.outputs:
        if draw(st.booleans()):
            entries: Any = written.input if each in facts.inputs else written.output
            entry = entries.add(name=each.name)
            if draw(st.booleans()):
                entry.dims.extend(draw(st.lists(st.sampled_from([-1, 1, 2, 3]), max_size=3)))
    return written


@settings(deadline=None)
@given(st.data())
def test_completing_a_completed_config_changes_nothing(data: st.DataObject) -> None:
    facts = data.draw(graphs())
    default = data.draw(st.sampled_from([0, 1, 4]))
    try:
        once = complete(data.draw(configs(facts)), facts, default_max_batch_size=default)
    except LoadFailed:
        return
    assert complete(once, facts, default_max_batch_size=default) == once


@settings(deadline=None)
@given(graphs(), st.sampled_from([0, 1, 4]))
def test_a_config_made_from_a_graph_agrees_with_it(facts: GraphFacts, default: int) -> None:
    """Only what nobody can know may be refused: an input whose rank the graph does not tell."""
    if any(each.shape is None for each in facts.inputs):
        with pytest.raises(LoadFailed, match="no known rank"):
            complete(pb.ModelConfig(name="m"), facts, default_max_batch_size=default)
        return
    full = complete(pb.ModelConfig(name="m"), facts, default_max_batch_size=default)
    assert [entry.name for entry in full.input] == [each.name for each in facts.inputs]
    assert [entry.name for entry in full.output] == [each.name for each in facts.outputs]
    assert all(entry.dims for entry in full.input)
    assert all(entry.dims for entry in full.output)
