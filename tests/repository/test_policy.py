"""Which versions are served, in which order they change."""

from collections.abc import Mapping

import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.repository.policy import (
    Load,
    Order,
    Publish,
    Snapshot,
    Unload,
    next_action,
    swap_order,
    wanted_versions,
)
from runtime.wire.pb import model_config_pb2 as pb

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "there", "wanted"),
    [
        ("", [3, 1, 2], (3,)),
        ("latest { }", [3, 1, 2], (3,)),
        ("latest { num_versions: 2 }", [1, 2, 10], (2, 10)),
        ("latest { num_versions: 9 }", [1, 2], (1, 2)),
        ("all { }", [2, 1], (1, 2)),
        ("specific { versions: [ 1, 3, 5 ] }", [1, 2, 3], (1, 3)),
    ],
)
def test_version_policies(text: str, there: list[int], wanted: tuple[int, ...]) -> None:
    assert wanted_versions(text_format.Parse(text, pb.ModelVersionPolicy()), there) == wanted


def test_a_policy_that_leaves_nothing_is_refused() -> None:
    policy = pb.ModelVersionPolicy(specific={"versions": [7]})
    with pytest.raises(ValueError, match=r"asks for \[7\], there are \[1, 2\]"):
        wanted_versions(policy, [2, 1])


@pytest.mark.parametrize(
    ("now", "action"),
    [
        (Snapshot(), None),
        (Snapshot({1: "a"}, {1: "a"}), None),
        (Snapshot({1: "a", 2: "b"}), Load(2)),
        (Snapshot({1: "a", 2: "b"}, {}, (2,)), Load(1)),
        (Snapshot({1: "a", 2: "b"}, {}, (1, 2)), Publish()),
        (Snapshot({2: "b"}, {1: "a"}), Load(2)),
        (Snapshot({2: "b"}, {1: "a"}, (2,)), Publish()),
        (Snapshot({2: "b"}, {1: "a", 2: "b"}), Unload(1)),
        (Snapshot({1: "new"}, {1: "old"}), Load(1)),
        (Snapshot({1: "new"}, {1: "old"}, (1,)), Publish()),
        (Snapshot({}, {1: "a", 2: "b"}), Unload(1)),
        (Snapshot({2: "b"}, {1: "a"}, (), "spare_memory"), Unload(1)),
        (Snapshot({2: "b"}, {}, (), "spare_memory"), Load(2)),
        (Snapshot({1: "new"}, {1: "old"}, (), "spare_memory"), Unload(1)),
    ],
)
def test_the_next_action(now: Snapshot, action: object) -> None:
    assert next_action(now) == action


marks = st.dictionaries(st.integers(1, 4), st.sampled_from("ab"), max_size=4)


@settings(deadline=None)
@given(marks, marks, st.sampled_from(["keep_available", "spare_memory"]))
def test_every_sequence_of_actions_ends_at_what_is_wanted(
    wanted: Mapping[int, str], before: Mapping[int, str], order: Order
) -> None:
    serving, staged, at_once = dict(before), set[int](), 0
    for _ in range(20):
        match next_action(Snapshot(wanted, serving, staged, order)):
            case Load(version):
                assert wanted[version] != serving.get(version)
                staged.add(version)
            case Publish():
                if order == "keep_available":
                    assert serving == before, "nothing old goes before all that is new is there"
                serving |= {version: wanted[version] for version in staged}
                staged.clear()
                at_once += 1
            case Unload(version):
                if order == "keep_available":
                    assert not staged
                    assert all(serving.get(number) == mark for number, mark in wanted.items())
                del serving[version]
            case None:
                break
    assert serving == wanted
    assert at_once <= 1


@pytest.mark.parametrize(
    ("needed", "available", "freed", "order"),
    [
        (10, 10, 0, "keep_available"),
        (11, 10, 0, None),
        (11, 10, 1, "spare_memory"),
        (12, 10, 1, None),
        (0, 0, 0, "keep_available"),
    ],
)
def test_memory_decides_the_order(needed: int, available: int, freed: int, order: str | None) -> None:
    assert swap_order(needed * MIB, available * MIB, freed * MIB) == order
