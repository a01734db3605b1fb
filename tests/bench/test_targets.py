"""The bench's verdicts: medians over rounds, open targets, misses."""

from bench.harness import Load, Percentiles
from bench.limits import Limit
from bench.results import Absent, LimitSample, Results, Sample
from bench.servers import FLOOR, KSERVE, OURS
from bench.targets import Verdict, judge, missed

_MS = Percentiles(count=1, mean=1, p50=1, p90=1, p99=1, max=1)


def _load(rate: float, *, wrong: int = 0) -> Load:
    return Load(
        mode="closed",
        protocol="grpc",
        sent=100,
        answered=100,
        unfinished=0,
        counted=100,
        ok=100,
        mismatched=wrong,
        codes={"OK": 100},
        rps=rate,
        goodput=rate,
        window_s=1,
        elapsed_s=1,
        cpu_s=0.1,
        reply_bytes={"min": 1, "max": 1},
        ok_ms=_MS,
        refused_ms=None,
        code_ms={},
        late_ms=None,
    )


def _sample(
    model: str, server: str, rate: float, *, cpu: float = 1.0, ort: float | None = None, wrong: int = 0
) -> Sample:
    return Sample(model, server, "c32", 0, _load(rate, wrong=wrong), cpu, mean_batch=4.0, ort_cpu_ms=ort)


def _results(models: str, *samples: Sample) -> Results:
    return Results(machine={}, settings={"models": models, "cells": "c32"}, samples=list(samples))


def _holds(results: Results) -> dict[str, bool | None]:
    return {verdict.what: verdict.holds for verdict in judge(results)}


def test_the_median_round_is_judged() -> None:
    own = [_sample("mlp", OURS, rate, cpu=cpu, ort=0.1) for rate, cpu in ((1, 9.0), (2100, 0.5), (2500, 0.4))]
    floor = _sample("mlp", FLOOR, 3000, cpu=0.3)
    found = _holds(_results("mlp", *own, floor, _sample("mlp", KSERVE, 1000)))
    assert found == {
        "answers not OK or wrong, cells lost": True,
        "mlp c32: server CPU without ONNX Runtime / aio echo's": True,  # (0.5 - 0.1) / 0.3
        "mlp c32: rate / kserve's": True,
        "mlp c32: rate / aio echo's": True,
    }


def test_a_figure_beyond_its_bound_is_a_miss() -> None:
    own = _sample("mlp", OURS, 1500, cpu=0.6, ort=0.1)
    results = _results("mlp", own, _sample("mlp", FLOOR, 3000, cpu=0.3), _sample("mlp", KSERVE, 1000))
    assert list(_holds(results).values()) == [True, False, False, False]
    assert missed(judge(results))


def test_an_absent_peer_leaves_its_target_open() -> None:
    results = _results("mlp", _sample("mlp", OURS, 2500, cpu=0.4, ort=0.1), _sample("mlp", FLOOR, 3000, cpu=0.3))
    assert _holds(results)["mlp c32: rate / kserve's"] is None
    assert not missed(judge(results))


def test_own_figures_missing_is_a_miss() -> None:
    assert missed(judge(_results("mlp", _sample("mlp", FLOOR, 3000), _sample("mlp", KSERVE, 1000))))


def test_one_wrong_answer_is_a_miss() -> None:
    results = _results("mlp", _sample("mlp", OURS, 9000, cpu=0.1, ort=0.0, wrong=1), _sample("mlp", FLOOR, 3000))
    assert judge(results)[0] == Verdict("answers not OK or wrong, cells lost", 1.0, "<=", 0, holds=False)


def test_a_cell_that_the_daemon_did_not_survive_is_a_miss() -> None:
    results = _results("gemm", _sample("gemm", OURS, 9000))
    assert not missed(judge(results))
    results.absent.append(Absent("gemm", OURS, "c32 of round 2: cannot connect"))
    assert missed(judge(results))


def test_heavy_models_are_held_against_the_limit_and_their_cpu() -> None:
    results = _results("resnet18", _sample("resnet18", OURS, 45.0, cpu=40.0, ort=36.0))
    limit = Limit(sessions=2, threads=1, batch=4, rows_per_s=50.0, cpu_ms_per_row=36, p50_ms=1, p99_ms=1)
    results.limits.append(LimitSample("resnet18", "c32", 0, limit))
    found = _holds(results)
    assert found["resnet18 c32: rate / best in process"] is True  # 0.90
    assert found["resnet18 c32: ONNX Runtime's share of server CPU"] is False  # 0.90 of 0.93
