"""The demo's client side against a small gRPC server of our own, and its verdict as a table."""

import io
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import numpy as np
import pytest
from rich.console import Console
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from examples.digits import demo, make_model

IMAGES = np.stack([np.full((8, 8), value, np.uint8) for value in range(10)])
LABELS = np.arange(10, dtype=np.uint8)


class FakeServer(pb_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Says that the digit is the image's first pixel; fails from the request numbered `fail_from` on."""

    def __init__(self) -> None:
        self.requests = itertools.count()
        self.fail_from = 10**9

    def ModelInfer(self, request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:  # noqa: N802
        if next(self.requests) >= self.fail_from:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        pixel = request.raw_input_contents[0][0]
        response = pb.ModelInferResponse(model_name=request.model_name)
        if request.outputs[0].parameters["classification"].int64_param:
            text = f"0.9:{pixel}:label{pixel}".encode()
            response.outputs.add(name="probabilities", datatype="BYTES", shape=[1, 1])
            response.raw_output_contents.append(len(text).to_bytes(4, "little") + text)
        else:
            response.outputs.add(name="digit", datatype="INT64", shape=[1, 1])
            response.raw_output_contents.append(int(pixel).to_bytes(8, "little"))
        return response

    def ModelStatistics(self, request: object, context: object) -> pb.ModelStatisticsResponse:  # noqa: N802
        return pb.ModelStatisticsResponse(model_stats=[pb.ModelStatistics(inference_count=40, execution_count=10)])


@dataclass(frozen=True)
class Running:
    fake: FakeServer
    address: str


@pytest.fixture
def running() -> Iterator[Running]:
    fake = FakeServer()
    server = grpc.server(ThreadPoolExecutor(4))
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Running(fake, f"127.0.0.1:{port}")
    server.stop(None).wait()


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def test_every_image_is_asked_at_least_once(running: Running) -> None:
    outcome, wall_s = demo.ask_all(running.address, IMAGES, LABELS, clients=3, seconds=0.0, console=quiet())
    assert outcome.answered >= len(IMAGES)
    assert outcome.correct == outcome.answered
    assert not outcome.failures
    assert wall_s > 0


def test_wrong_answers_are_counted_as_wrong(running: Running) -> None:
    outcome = demo.ask(running.address, IMAGES, LABELS[::-1], itertools.count(), time.monotonic())
    assert (outcome.answered, outcome.correct) == (10, 0)


def test_a_client_stops_at_its_first_failure(running: Running) -> None:
    running.fake.fail_from = 4
    outcome = demo.ask(running.address, IMAGES, LABELS, itertools.count(), time.monotonic())
    assert outcome.answered == 4
    assert len(outcome.failures) == 1
    assert "draining" in outcome.failures[0]


def test_the_servers_own_counts_are_read(running: Running) -> None:
    assert demo.counts_of(running.address) == demo.Counts(40, 10)


def test_the_first_answer_is_shown_with_its_label(running: Running) -> None:
    console = quiet()
    demo.show_first_answer(running.address, IMAGES[7], 7, console)
    assert "label7 0.900" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_summary_names_the_figures() -> None:
    console = quiet()
    outcome = demo.Outcome(correct=98, latencies_s=[0.001] * 100)
    console.print(demo.summary(outcome, 2.0, demo.Counts(100, 25)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for figure in ("0.9800", "50/s", "1.00 ms", "4.00"):
        assert figure in text


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (demo.Outcome(correct=97, latencies_s=[0.0] * 100), 0, None),
        (demo.Outcome(correct=96, latencies_s=[0.0] * 100), 0, "accuracy 0.9600"),
        (demo.Outcome(correct=99, latencies_s=[0.0] * 100, failures=["lost"]), 0, "lost"),
        (demo.Outcome(), 0, "no request"),
        (demo.Outcome(correct=100, latencies_s=[0.0] * 100), 3, "status 3"),
        (demo.Outcome(correct=100, latencies_s=[0.0] * 100), None, "killed"),
    ],
)
def test_the_verdict(outcome: demo.Outcome, status: int | None, reason: str | None) -> None:
    reasons = demo.shortcomings(outcome, status)
    assert len(reasons) == (reason is not None)
    assert reason is None or reason in reasons[0]


def test_the_floor_is_the_one_the_model_was_made_to() -> None:
    assert demo.ACCURACY_FLOOR == make_model.ACCURACY_FLOOR
