"""How the programs that test the daemon alone judge what they measured."""

import json
from typing import Any

import pytest

from bench import findings, overload, start
from bench.alone import Held
from bench.harness import Load, Percentiles
from bench.overload import Round
from bench.soak import Curve

QUIET = Percentiles(count=1, mean=1.0, p50=1.0, p90=1.0, p99=7.0, max=9.0)


def curve(sizes: list[int], threads: list[int] | None = None) -> Curve:
    made = Curve()
    for number, size in enumerate(sizes):
        made.note(100 * number, Held(size, files=20, threads=threads[number] if threads else 5))
    return made


def test_growth_is_the_slope_after_a_tenth_as_warm_up() -> None:
    warming = [10_000 * number for number in range(3)]
    steady = [50_000 + 200 * number for number in range(27)]
    assert curve(warming + steady).line[0] == pytest.approx(2.0)


def test_threads_are_compared_between_the_second_and_the_last_tenth() -> None:
    assert curve([0] * 20, [1, 1, *[5] * 18]).growth(lambda held: held.threads) == 0
    assert curve([0] * 20, [*[5] * 18, 7, 7]).growth(lambda held: held.threads) == 2


def overloaded(goodput: float, codes: dict[str, int]) -> Round:
    counted = sum(codes.values())
    load = Load(
        mode="open", protocol="grpc", sent=counted, answered=counted, unfinished=0, counted=counted,
        ok=codes.get("OK", 0), mismatched=0, codes=codes, rps=0, goodput=goodput,
        window_s=2.0, elapsed_s=3.0, cpu_s=0.1, reply_bytes={}, ok_ms=QUIET, refused_ms=None,
        code_ms={"RESOURCE_EXHAUSTED": QUIET}, late_ms=None,
    )  # fmt: skip
    return Round(100.0, {"over": load}, 1.0, 0.1)


def test_a_late_answer_and_an_expired_request_both_count_as_admitted() -> None:
    one = overloaded(95.0, {"OK": 196, "DEADLINE_EXCEEDED": 4, "RESOURCE_EXHAUSTED": 1800})
    assert one.kept == pytest.approx(0.95)
    assert one.in_time == pytest.approx(190 / 200)
    assert one.refused_p99_ms == 7.0


def test_nothing_admitted_is_nothing_in_time() -> None:
    assert overloaded(0.0, {"RESOURCE_EXHAUSTED": 5}).in_time == 0.0


class ScriptedProber(overload.Prober):
    """Calls take as long as they are told, and no time passes but theirs."""

    def __init__(self, calls_s: list[float]) -> None:
        self._calls_s = iter(calls_s)
        self.now = 0.0

    def call_s(self) -> float:
        spent = next(self._calls_s)
        self.now += min(spent, 1.0)
        return spent


@pytest.mark.parametrize(
    ("calls_s", "recovered"),
    [
        ([0.01] * 20, 0.0),
        ([0.2, float("inf"), *[0.01] * 20], 1.2),
        ([0.2, *[0.01] * 19, 0.2, *[0.01] * 20], 0.59),
        ([0.5] * 100, None),
    ],
)
def test_recovered_is_when_a_row_of_normal_calls_begins(calls_s: list[float], recovered: float | None) -> None:
    prober = ScriptedProber(calls_s)
    assert prober.recovery_s(0.1, lambda: prober.now) == (None if recovered is None else pytest.approx(recovered))


def test_steps_of_a_start_follow_its_log() -> None:
    events = {"00.500": "grpc listening", "00.510": "http listening", "00.600": "sessions ready", "00.625": "ready"}
    log = [{"time": f"1970-01-01T00:00:{second}Z", "event": event} for second, event in events.items()]
    log.insert(1, {"time": "1970-01-01T00:00:00.505Z", "event": "something else"})
    steps = start._steps("\n".join(map(json.dumps, log)), 0.0)
    assert list(steps.values()) == pytest.approx([0.5, 0.01, 0.09, 0.025])


@pytest.mark.parametrize(("figure", "status"), [(9.0, 0), (10.0, 0), (10.1, 1), (None, 1)])
def test_a_target_that_is_missed_or_was_not_measured_is_exit_status_1(
    tmp_path: Any, figure: float | None, status: int
) -> None:
    found = findings.Findings("one", quick=True)
    found.at_most("growth", figure, 10)
    found.figures["rounds"] = [Held(1, 2, 3)]
    assert found.close(tmp_path / "report.json") == status
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["targets"][0]["holds"] is (status == 0)
    assert report["figures"] == {"rounds": [{"rss_bytes": 1, "files": 2, "threads": 3}]}
