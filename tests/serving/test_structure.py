"""The structural check: hostile files are refused with a reason, good ones are described."""

import os
from pathlib import Path

import pytest
from onnx import ModelProto, TensorProto, helper

from runtime.serving.structure import MAX_FILE_BYTES, StructureError, check_structure
from tests.serving import hostile
from tests.serving.hostile import HOSTILE, SECRET, Hostile, X, Y, model

IDENTITY = helper.make_node("Identity", ["x"], ["y"])


def written(version: Path, content: ModelProto | bytes) -> Path:
    version.mkdir(parents=True, exist_ok=True)
    path = version / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


def refusal(path: Path, *, allow_links: bool = False) -> str:
    with pytest.raises(StructureError) as refused:
        check_structure(path, allow_links=allow_links)
    return str(refused.value)


# --- what is refused


@pytest.mark.parametrize("case", [case for case in HOSTILE if case.stage == "check"], ids=str)
def test_what_means_harm_is_refused_and_the_reason_names_it(case: Hostile, tmp_path: Path) -> None:
    text = refusal(case.write(tmp_path / "m" / "1"))
    assert case.words in text
    assert "\n" not in text
    assert len(text) < 700
    assert str(SECRET[0]) not in text


@pytest.mark.parametrize(
    "name",
    ["up", "up and down", "absolute", "dev zero", "link to dev zero", "pipe", "missing", "named twice", "sparse up"],
)
def test_links_that_are_allowed_allow_nothing_else(name: str, tmp_path: Path) -> None:
    case = next(case for case in HOSTILE if case.name == name)
    assert case.words in refusal(case.write(tmp_path / "m" / "1"), allow_links=True)


def test_a_model_that_is_wrong_is_refused_beside_links_too(tmp_path: Path) -> None:
    whole = hostile.with_external("w.bin")
    whole.graph.node.add(op_type="NoSuchThing", input=["x"], output=["z"])
    path = written(tmp_path / "1", whole)
    hostile.soft_link(tmp_path / "1")
    assert "No Op registered for NoSuchThing" in refusal(path, allow_links=True)


def test_a_file_larger_than_protobuf_allows_is_not_even_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.touch()
    os.truncate(path, MAX_FILE_BYTES + 1)  # takes no room on disk
    assert "export the weights as external data" in refusal(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    assert refusal(tmp_path / "model.onnx") == "the file cannot be read: No such file or directory"
    assert refusal(tmp_path) == "the file cannot be read: Is a directory"


def test_only_the_binary_form_counts_whatever_the_file_is_called(tmp_path: Path) -> None:
    text = tmp_path / "model.json"
    text.write_text('{"irVersion": "8", "graph": {"name": "g"}}')
    assert "not an ONNX model" in refusal(text)


# --- what is accepted


@pytest.mark.parametrize(
    "content",
    [
        hostile.with_external("w.bin"),
        hostile.with_external("./w.bin"),
        hostile.with_external("sub/w.bin"),
        model([hostile.ADD], sparse=[hostile.sparse("w.bin")]),
        model([hostile.constant("w.bin"), hostile.ADD]),
        hostile.in_an_attribute("w.bin"),
        hostile.in_a_function("w.bin"),
        hostile.in_a_subgraph("w.bin"),
        hostile.in_training_info("w.bin"),
    ],
    ids=["plain", "dot", "sub", "sparse", "sparse constant", "attribute", "function", "subgraph", "training"],
)
@pytest.mark.parametrize("allow_links", [False, True])
def test_external_data_where_it_should_be(content: ModelProto, tmp_path: Path, *, allow_links: bool) -> None:
    path = written(tmp_path / "1", content)
    hostile.plain(tmp_path / "1")
    (tmp_path / "1" / "sub").mkdir()
    hostile.plain(tmp_path / "1" / "sub")
    structure = check_structure(path, allow_links=allow_links)
    assert structure.weight_bytes == path.stat().st_size + SECRET.nbytes


@pytest.mark.parametrize("around", [hostile.soft_link, hostile.hard_link])
def test_links_are_for_who_allows_them(around: object, tmp_path: Path) -> None:
    assert callable(around)
    path = written(tmp_path / "1", hostile.with_external("w.bin"))
    around(tmp_path / "1")
    assert "follow_links is off" in refusal(path)
    assert check_structure(path, allow_links=True).weight_bytes == path.stat().st_size + SECRET.nbytes


def test_a_version_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    path = written(tmp_path / "releases" / "7", hostile.with_external("w.bin"))
    hostile.plain(path.parent)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "1").symlink_to(path.parent)
    check_structure(tmp_path / "m" / "1" / "model.onnx", allow_links=False)


def test_a_file_shared_by_two_tensors_counts_once(tmp_path: Path) -> None:
    second = hostile.external("w.bin")
    second.name = "v"
    nodes = [hostile.ADD, helper.make_node("Add", ["x", "v"], ["z"])]
    path = written(tmp_path / "1", model(nodes, weights=[hostile.external("w.bin"), second]))
    hostile.plain(path.parent)
    assert check_structure(path, allow_links=False).weight_bytes == path.stat().st_size + SECRET.nbytes


# --- what is told of it


def test_a_plain_model_has_neither_control_flow_nor_open_ranks(tmp_path: Path) -> None:
    structure = check_structure(written(tmp_path, model([IDENTITY])), allow_links=False)
    assert (structure.control_flow, structure.open_rank) == (False, frozenset())


@pytest.mark.parametrize("content", [hostile.endless(), hostile.in_a_subgraph("w.bin")])
def test_any_node_with_a_graph_of_its_own_is_control_flow(content: ModelProto, tmp_path: Path) -> None:
    path = written(tmp_path, content)
    hostile.plain(tmp_path)
    assert check_structure(path, allow_links=False).control_flow


def test_control_flow_in_a_function_counts(tmp_path: Path) -> None:
    loop = hostile.endless().graph
    constant = helper.make_node("Constant", [], ["turns"], value=loop.initializer[0])
    function = helper.make_function(
        "local", "F", ["x"], ["y"], [constant, *loop.node], [helper.make_opsetid("", 17)], []
    )
    whole = model([helper.make_node("F", ["x"], ["y"], domain="local")])
    whole.functions.append(function)
    whole.opset_import.append(helper.make_opsetid("local", 1))
    assert check_structure(written(tmp_path, whole), allow_links=False).control_flow


def test_unknown_ranks_are_told_from_scalars(tmp_path: Path) -> None:
    """The checker wants a shape for every output; converters leave it out where they do not know the rank."""
    open_y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    scalar = helper.make_tensor_value_info("s", TensorProto.FLOAT, [])
    nodes = [IDENTITY, helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0)]
    path = written(tmp_path, model(nodes, [X], [open_y, scalar]))
    assert check_structure(path, allow_links=False).open_rank == {"y"}


def test_inputs_that_are_no_tensors_have_no_rank_to_leave_open(tmp_path: Path) -> None:
    sequence = helper.make_value_info("s", helper.make_sequence_type_proto(X.type))
    at = helper.make_tensor_value_info("at", TensorProto.INT64, [])
    path = written(tmp_path, model([helper.make_node("SequenceAt", ["s", "at"], ["y"])], [sequence, at], [Y]))
    assert check_structure(path, allow_links=False).open_rank == frozenset()


def test_depth_costs_no_stack(tmp_path: Path) -> None:
    """As deep as protobuf reads it: a hundred messages inside each other, three for each If."""
    leaf = graph = helper.make_graph([IDENTITY], "leaf", [], [helper.make_empty_tensor_value_info("y")])
    for _ in range(30):
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=leaf)
        graph = helper.make_graph([node], "deeper", [], [helper.make_empty_tensor_value_info("y")])
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    path = written(tmp_path, model(list(graph.node), [X, condition], [Y]))
    assert check_structure(path, allow_links=False).control_flow
