"""A request's own behaviour: cancelling."""

from runtime.core.inference import InferRequest, RequestHead


def test_cancel_tells_once() -> None:
    told: list[int] = []
    request = InferRequest(RequestHead("m", "", ()), ())
    request.on_cancel = lambda: told.append(1)
    request.cancel()
    request.cancel()
    assert request.cancelled
    assert told == [1]


def test_cancel_before_submit_is_remembered() -> None:
    request = InferRequest(RequestHead("m", "", ()), ())
    request.cancel()
    assert request.cancelled


def test_buffers_that_nobody_lent_need_no_release() -> None:
    InferRequest(RequestHead("m", "", ()), ()).release()
