"""What is found, and what is said where nothing is."""

from pathlib import Path

import pytest

from runtime.core.errors import InvalidRequest, ModelNotFound, ModelNotReady, SpillwayError, VersionNotFound
from runtime.core.model import ModelSpec
from runtime.core.verdict import Verdict
from runtime.repository.files import Digest
from runtime.repository.gate import Candidate
from runtime.repository.index import Entry, IndexEntry, ServedModel, ServingIndex
from runtime.wire.pb import model_config_pb2 as pb
from tests.fakes.loader import FakeScheduler


def served(name: str, version: int) -> ServedModel:
    path = Path("/m")
    spec = ModelSpec(name, version, path, (), ())
    candidate = Candidate(name, version, path, path, pb.ModelConfig(), Digest("", ()))
    return ServedModel(name, version, (), pb.ModelConfig(), spec, Verdict(), FakeScheduler(spec), candidate)


def ready(name: str, version: int) -> Entry:
    return Entry("READY", served=served(name, version))


def test_the_highest_ready_version_answers_where_none_is_named() -> None:
    index = ServingIndex()
    index.update("m", {9: ready("m", 9), 10: ready("m", 10), 11: Entry("LOADING")})
    assert index.find("m", "").spec.version == 10
    assert index.find("m", "9").spec.version == 9
    assert index.find("m", "009").spec.version == 9
    assert index.describe("m", "").versions == (9, 10)
    assert [each.version for each in index.served()] == [9, 10]
    index.update("m", {10: Entry("UNLOADING", served=index.describe("m", "10"))})
    assert index.find("m", "").spec.version == 9


@pytest.mark.parametrize(
    ("entries", "version", "error", "words"),
    [
        ({}, "", ModelNotFound, "Request for unknown model: 'm' is not found"),
        ({}, "1", ModelNotFound, "Request for unknown model: 'm' is not found"),
        ({1: Entry("UNLOADED")}, "", ModelNotFound, "Request for unknown model: 'm' is not found"),
        ({1: Entry("UNLOADED")}, "1", VersionNotFound, "version 1 is not available"),
        ({1: Entry("LOADING")}, "2", VersionNotFound, "version 2 is not available"),
        ({1: Entry("LOADING")}, "", ModelNotReady, "version 1 is LOADING"),
        ({1: Entry("LOADING")}, "1", ModelNotReady, "version 1 is LOADING"),
        ({1: Entry("UNLOADING")}, "1", ModelNotReady, "version 1 is UNLOADING"),
        ({1: Entry("FAILED", "why")}, "", ModelNotReady, "version 1 is FAILED (why)"),
        ({0: Entry("FAILED", "why")}, "", ModelNotReady, "it is FAILED (why)"),
        ({1: ready("m", 1)}, "x", InvalidRequest, "specified version string 'x'"),
        ({1: ready("m", 1)}, "0", InvalidRequest, "specified version string '0'"),
    ],
)
def test_what_is_not_found(entries: dict[int, Entry], version: str, error: type[SpillwayError], words: str) -> None:
    index = ServingIndex()
    index.update("m", entries)
    for ask in (index.find, index.describe):
        with pytest.raises(error) as caught:
            ask("m", version)
        assert type(caught.value) is error
        assert words in str(caught.value)


def test_the_listing_has_what_was_asked_for_and_what_was_not() -> None:
    index = ServingIndex()
    index.update("b", {2: Entry("FAILED", "why"), 1: ready("b", 1)})
    assert index.listing(["a", "b"]) == [
        IndexEntry("a", 0, "UNLOADED"),
        IndexEntry("b", 1, "READY"),
        IndexEntry("b", 2, "FAILED", "why"),
    ]


def test_a_reader_never_sees_a_change_half_made() -> None:
    index = ServingIndex()
    index.update("m", {1: ready("m", 1)})
    before = (index._models, index._ready)
    snapshot = (dict(before[0]), dict(before[1]))
    index.update("m", {1: None, 2: ready("m", 2)})
    index.update("n", {1: ready("n", 1)})
    assert before == snapshot, "what a reader holds does not change"
    assert set(index._ready) == {("m", "2"), ("m", ""), ("n", "1"), ("n", "")}
    index.update("m", {2: None})
    assert "m" not in index.names()
    assert set(index._ready) == {("n", "1"), ("n", "")}
