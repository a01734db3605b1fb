"""T(b) learned from measurements: where batching pays, where it does not, and what noise may not do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.verdict import RunCost
from runtime.serving.cost import EXPLORE_EVERY, OUTLIER, CostModel

SIZES = (1, 2, 4, 8, 16)


def measured(curve: dict[int, float], max_rows: int = 16, overhead_s: float = 0.0) -> CostModel:
    return CostModel(max_rows, overhead_s, [RunCost(rows=rows, run_s=run_s) for rows, run_s in curve.items()])


@pytest.mark.parametrize(
    ("name", "curve", "pays"),
    [
        ("all fixed", dict.fromkeys(SIZES, 0.010), 16),
        ("mostly fixed", {rows: 0.010 + 0.0004 * rows for rows in SIZES}, 16),
        ("all per row: nothing is gained", {rows: 0.010 * rows for rows in SIZES}, 1),
        ("batching makes it worse", {1: 0.5, 2: 1.05, 4: 3.9, 8: 9.0, 16: 19.0}, 1),
        ("best in the middle", {1: 1.0, 2: 1.2, 4: 1.6, 8: 4.8, 16: 12.0}, 4),
        ("within five per cent the smaller is as good", {1: 1.04, 2: 2.0, 4: 4.0, 8: 8.0, 16: 16.0}, 1),
    ],
)
def test_the_smallest_batch_that_is_about_as_good_as_the_best(name: str, curve: dict[int, float], pays: int) -> None:
    cost = measured(curve)
    assert cost.known, name
    assert cost.pays == pays


def test_what_a_batch_costs_beside_its_run_speaks_for_larger_ones() -> None:
    curve = {rows: 0.00002 * rows for rows in SIZES}
    assert measured(curve).pays == 1
    assert measured(curve, overhead_s=0.0001).pays == 16


def test_fixed_and_row_cost_come_out_of_a_straight_line() -> None:
    cost = measured({rows: 0.013 + 0.00045 * rows for rows in SIZES})
    assert cost.fixed_s == pytest.approx(0.013)
    assert cost.row_s == pytest.approx(0.00045)
    assert cost.predict(12) == pytest.approx(0.013 + 12 * 0.00045), "not measured: from the line"
    assert cost.backlog_s(32) == pytest.approx(2 * cost.predict(16))


def test_nothing_known_predicts_nothing_and_refuses_nothing() -> None:
    cost = CostModel(8, 0.0)
    assert not cost.known
    assert cost.predict(4) == 0.0
    assert cost.backlog_s(100) == 0.0
    assert cost.limit() == 8
    assert cost.points() == []


def test_one_measured_size_is_no_evidence_against_batching() -> None:
    cost = measured({1: 0.010})
    assert cost.pays == 16
    assert cost.fixed_s == 0.0, "all of it may be per row"
    assert cost.predict(4) == pytest.approx(0.040)


def test_sizes_beyond_the_maximum_are_not_taken_from_the_trial() -> None:
    assert [point.rows for point in measured(dict.fromkeys(SIZES, 0.010), max_rows=4).points()] == [1, 2, 4]


def test_a_descheduled_run_teaches_little() -> None:
    cost = measured(dict.fromkeys(SIZES, 0.010))
    cost.observe(16, 5.0)
    assert 0.010 < cost.predict(16) <= 0.010 + 0.1 * (OUTLIER - 1) * 0.010


def test_it_follows_a_model_that_became_slower() -> None:
    cost = measured(dict.fromkeys(SIZES, 0.010))
    for _ in range(60):
        cost.observe(8, 0.020)
    assert cost.predict(8) == pytest.approx(0.020, rel=0.05)


def test_now_and_then_a_batch_may_be_larger_so_that_a_change_is_seen() -> None:
    cost = measured({1: 1.0, 2: 1.2, 4: 1.6, 8: 4.8, 16: 12.0})
    limits = []
    for _ in range(2 * EXPLORE_EVERY):
        limits.append(cost.limit())
        cost.observe(4, 1.6)
    assert limits.count(8) == 2
    assert set(limits) == {4, 8}


def test_exploring_finds_that_batching_pays_after_all() -> None:
    """The trial ran while the machine was busy and saw no gain; the truth is all fixed cost."""
    cost = measured({rows: 0.010 * rows for rows in SIZES})
    assert cost.pays == 1
    for _ in range(40 * EXPLORE_EVERY):
        cost.observe(cost.limit(), 0.010)
    assert cost.pays >= 8


@given(st.lists(st.tuples(st.integers(1, 16), st.floats(0, 100)), max_size=60), st.integers(1, 16))
def test_laws(runs: list[tuple[int, float]], max_rows: int) -> None:
    cost = CostModel(max_rows, 0.0001)
    for rows, run_s in runs:
        cost.observe(min(rows, max_rows), run_s)
        assert 1 <= cost.pays <= max_rows
        assert 1 <= cost.limit() <= max_rows
        assert cost.fixed_s >= 0
        assert cost.row_s >= 0
        assert all(cost.predict(size) >= 0 for size in (1, max_rows))


def test_the_line_serves_sizes_that_were_never_seen() -> None:
    """Closed-loop traffic shows one or two sizes only; a fit through single runs would point anywhere."""
    cost = measured({1: 0.000062, 4: 0.00008, 16: 0.00015, 64: 0.000384}, max_rows=64)
    for _ in range(200):
        cost.observe(1, 0.000070)
        cost.observe(2, 0.000060)
    assert cost.predict(32) == pytest.approx(0.00023, rel=0.25)
    assert cost.predict(48) == pytest.approx(0.00031, rel=0.25)
