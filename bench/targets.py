"""What the daemon has to reach (issue 2, "What it must show", 4), judged on the medians of one run. Pure.

A target whose peer did not run here is left open, with no verdict; one whose own figures are missing is a miss.
"""

from dataclasses import dataclass

from bench.models import ECHO, ENCODER, GEMM, GEMM_NOBATCH, MLP, RESNET18
from bench.results import Results, Sample, ort_share, overhead_ms
from bench.servers import FLOOR, KSERVE, OURS

AT_MOST, AT_LEAST = "<=", ">="
_FULL = "c32"
_ANSWERS = "answers not OK or wrong, cells lost"


@dataclass(frozen=True)
class Verdict:
    """One target: the figure reached (None: not measured), its bound, and whether it holds (None: left open)."""

    what: str
    figure: float | None
    relation: str
    bound: float
    holds: bool | None


def judge(results: Results) -> list[Verdict]:
    """All targets of the models and cells that were run."""
    models = set(results.settings["models"].split(","))
    cells = results.settings["cells"].split(",")
    verdicts = [_answers(results)]
    for model, bound in ((MLP.name, 1.5), (ECHO.name, 1.3)):
        if model in models:
            verdicts += [_cpu(results, model, cell, bound) for cell in cells if cell.startswith("c")]
    if _FULL not in cells:
        return verdicts
    if MLP.name in models:
        mlp = results.rate(MLP.name, OURS, _FULL)
        verdicts.append(_ratio("mlp c32: rate / kserve's", mlp, results.rate(MLP.name, KSERVE, _FULL), 2.0))
        verdicts.append(_ratio("mlp c32: rate / aio echo's", mlp, results.rate(MLP.name, FLOOR, _FULL), 0.6))
    for model in (RESNET18.name, ENCODER.name):
        if model in models:
            served, limit = results.rate(model, OURS, _FULL), results.limit_rate(model, _FULL)
            verdicts.append(_ratio(f"{model} c32: rate / best in process", served, limit, 0.90))
            share = results.figure(model, OURS, _FULL, ort_share)
            verdicts.append(_verdict(f"{model} c32: ONNX Runtime's share of server CPU", share, AT_LEAST, 0.93))
    if {GEMM.name, GEMM_NOBATCH.name} <= models:
        batched, single = results.rate(GEMM.name, OURS, _FULL), results.rate(GEMM_NOBATCH.name, OURS, _FULL)
        verdicts.append(_ratio("gemm c32: rate / its own at max_batch_size 1", batched, single, 5.0))
    return verdicts


def missed(verdicts: list[Verdict]) -> bool:
    """True where a target does not hold."""
    return any(verdict.holds is False for verdict in verdicts)


def _answers(results: Results) -> Verdict:
    """Every answer of ours must be OK and right, and no cell may be missing, or no other figure counts."""
    own = [sample for sample in results.samples if sample.server == OURS]
    lost = sum(absent.server == OURS for absent in results.absent)
    return _verdict(_ANSWERS, float(sum(map(_bad, own)) + lost) if own else None, AT_MOST, 0)


def _bad(sample: Sample) -> int:
    load = sample.load
    return load.counted - load.ok + load.mismatched + load.unfinished


def _cpu(results: Results, model: str, cell: str, bound: float) -> Verdict:
    own = results.figure(model, OURS, cell, overhead_ms)
    floor = results.figure(model, FLOOR, cell, lambda sample: sample.server_cpu_ms)
    return _ratio(f"{model} {cell}: server CPU without ONNX Runtime / aio echo's", own, floor, bound, AT_MOST)


def _ratio(what: str, own: float | None, other: float | None, bound: float, relation: str = AT_LEAST) -> Verdict:
    if own is not None and not other:
        return Verdict(what, None, relation, bound, holds=None)  # the peer did not run
    return _verdict(what, own / other if own is not None and other else None, relation, bound)


def _verdict(what: str, figure: float | None, relation: str, bound: float) -> Verdict:
    if figure is None:
        return Verdict(what, None, relation, bound, holds=False)
    return Verdict(what, figure, relation, bound, holds=figure <= bound if relation == AT_MOST else figure >= bound)
