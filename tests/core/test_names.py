"""Names of models and numbers of versions."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import InvalidRequest
from runtime.core.names import MAX_VERSION, parse_version, valid_model_name, version_of_folder


@pytest.mark.parametrize("name", ["a", "9", "resnet50", "a.b-c_d", "A" * 128])
def test_valid_names(name: str) -> None:
    assert valid_model_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "-x", "_x", "a/b", "a\\b", "a b", "a\n", "a\0", "é", "٣", "a" * 129, "../a", "%2e"],
)
def test_invalid_names(name: str) -> None:
    assert not valid_model_name(name)


@settings(deadline=None)
@given(st.text(max_size=140))
def test_a_valid_name_is_one_plain_path_component(name: str) -> None:
    if valid_model_name(name):
        assert PurePosixPath("/r", name).parent == PurePosixPath("/r")
        assert PurePosixPath(name).parts == (name,)
        assert name.isascii()
        assert 1 <= len(name) <= 128


@pytest.mark.parametrize(("text", "number"), [("", None), ("1", 1), ("007", 7), ("9223372036854775807", MAX_VERSION)])
def test_versions_of_requests(text: str, number: int | None) -> None:
    assert parse_version(text) == number


@pytest.mark.parametrize(
    "text", ["0", "-1", "+1", "1.0", " 1", "1 ", "one", "٣", "²", "1_0", "9223372036854775808", "1" * 5000, "\0"]
)
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_version(text)
    assert len(str(caught.value)) < 300


@settings(deadline=None)
@given(st.integers(1, MAX_VERSION))
def test_every_version_survives_its_text(number: int) -> None:
    assert parse_version(str(number)) == number
    assert version_of_folder(str(number)) == number


@pytest.mark.parametrize("name", ["0", "01", "-1", "1a", "v1", "", "9223372036854775808", "٣", "1\n"])
def test_what_is_no_version_folder(name: str) -> None:
    assert version_of_folder(name) is None
