"""Every error has its status code, and a client gets an error of the same code back."""

import re
from collections.abc import Iterator

import grpc
import pytest

from runtime.core import errors
from runtime.core.errors import SpillwayError
from runtime.wire.status import MAX_DETAILS, STATUS, details_of, error_of, status_of

Code = grpc.StatusCode

EXAMPLES: list[tuple[SpillwayError, grpc.StatusCode]] = [
    (errors.InvalidRequest("x"), Code.INVALID_ARGUMENT),
    (errors.InvalidTensor("x"), Code.INVALID_ARGUMENT),
    (errors.ModelNotFound("m"), Code.NOT_FOUND),
    (errors.VersionNotFound("m", "3"), Code.NOT_FOUND),
    (errors.Unsupported("x"), Code.UNIMPLEMENTED),
    (errors.DeadlineExpired("in the queue"), Code.DEADLINE_EXCEEDED),
    (errors.Cancelled(), Code.CANCELLED),
    (errors.Overloaded("x"), Code.RESOURCE_EXHAUSTED),
    (errors.QueueFull("m", 3), Code.UNAVAILABLE),
    (errors.QueueTimeout("m"), Code.UNAVAILABLE),
    (errors.ModelNotReady("x"), Code.UNAVAILABLE),
    (errors.ControlDisabled("none"), Code.UNAVAILABLE),
    (errors.Draining(), Code.UNAVAILABLE),
    (errors.DeviceLost("x"), Code.UNAVAILABLE),
    (errors.ExecutionError("x"), Code.INTERNAL),
    (errors.PollFailed("m", "x"), Code.INTERNAL),
    (errors.LoadFailed("m", "x"), Code.INVALID_ARGUMENT),
    (errors.AccessDenied("x"), Code.PERMISSION_DENIED),
    (errors.Unauthenticated("x"), Code.UNAUTHENTICATED),
    (errors.ConfigError("x"), Code.INTERNAL),
]


def descendants(family: type[SpillwayError]) -> Iterator[type[SpillwayError]]:
    for each in family.__subclasses__():
        yield each
        yield from descendants(each)


def is_family(error: type[SpillwayError]) -> bool:
    """A branch of the tree that stands for no single case."""
    return SpillwayError in error.__bases__ and bool(error.__subclasses__())


def ours() -> list[type[SpillwayError]]:
    return [each for each in descendants(SpillwayError) if each.__module__.startswith("runtime.")]


@pytest.mark.parametrize("error", ours(), ids=lambda each: each.__name__)
def test_every_error_finds_an_entry_of_its_own(error: type[SpillwayError]) -> None:
    """Own, or that of a parent that is a case itself: the entry of a whole family only serves the family."""
    found = next((each for each in error.__mro__ if each in STATUS), None)
    assert found is not None, f"{error.__name__} has no line in wire/status.py"
    assert found is error or not is_family(found), f"{error.__name__} only finds its family {found.__name__}"


def test_an_example_stands_for_every_error() -> None:
    assert {type(error) for error, _ in EXAMPLES} == {each for each in ours() if not is_family(each)}


@pytest.mark.parametrize(("error", "code"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_codes(error: SpillwayError, code: grpc.StatusCode) -> None:
    assert status_of(error) == (code, str(error))


@pytest.mark.parametrize(("error", "code"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_clients_get_the_code_and_the_words_back(error: SpillwayError, code: grpc.StatusCode) -> None:
    assert status_of(error_of(*status_of(error))) == (code, str(error))


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.name)
def test_every_code_makes_an_error_with_words(code: grpc.StatusCode) -> None:
    assert str(error_of(code, ""))
    assert "why" in str(error_of(code, "why")) or code is Code.CANCELLED


def test_not_found_is_taken_apart() -> None:
    for error in (errors.ModelNotFound("it's"), errors.VersionNotFound("m", "3")):
        back = error_of(*status_of(error))
        assert type(back) is type(error)
        assert vars(back) == vars(error)
    foreign = error_of(Code.NOT_FOUND, "no such region")
    assert isinstance(foreign, errors.ModelNotFound)
    assert str(foreign) == "no such region"


def test_deadline_says_where() -> None:
    back = error_of(*status_of(errors.DeadlineExpired("in the queue")))
    assert isinstance(back, errors.DeadlineExpired)
    assert back.where == "in the queue"


@pytest.mark.parametrize("bug", [KeyError("secret"), OSError(2, "secret"), KeyboardInterrupt(), SystemExit("secret")])
def test_bugs_tell_nothing(bug: BaseException) -> None:
    assert status_of(bug) == (Code.INTERNAL, "internal error")


def test_a_class_of_somebody_else_goes_by_its_ancestor() -> None:
    class OutOfMemory(errors.ExecutionError):
        pass

    assert status_of(OutOfMemory("x"))[0] is Code.INTERNAL


@pytest.mark.parametrize(
    ("text", "details"),
    [
        ("plain", "plain"),
        ("", ""),
        ("line one\nline\ttwo\x00", "line one line two "),
        ("Grüße \N{SNOWMAN}", "Grüße \N{SNOWMAN}"),
        ("half \ud800 pair", "half   pair"),
        ("x" * MAX_DETAILS, "x" * MAX_DETAILS),
        ("x" * (MAX_DETAILS + 1), "x" * (MAX_DETAILS - 3) + "..."),
        ("\N{SNOWMAN}" * 1000, "\N{SNOWMAN}" * 340 + "..."),
        ("y" * 10_000_000, "y" * (MAX_DETAILS - 3) + "..."),
    ],
)
def test_details_fit_a_header(text: str, details: str) -> None:
    assert details_of(text) == details
    assert len(details_of(text).encode()) <= MAX_DETAILS


def test_the_phrases_that_clients_look_for() -> None:
    for error, phrase in (
        (errors.ModelNotFound("m"), r"^Request for unknown model: 'm' is not found"),
        (errors.QueueFull("m", 1), "Exceeds maximum queue size"),
        (errors.QueueTimeout("m"), "Request timeout expired"),
        (errors.PollFailed("m", "r"), "failed to load 'm', failed to poll from model repository"),
        (errors.LoadFailed("m", "r"), "load failed for model 'm'"),
    ):
        assert re.search(phrase, status_of(error)[1])
