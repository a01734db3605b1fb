"""When to hold a batch for the clients just answered."""

from runtime.serving.refill import MIN_WINDOW_S, Refill

FIXED_S = 0.013
RUN_S = 0.016


def returning(clients: int, share: float = 1.0, after_s: float = 0.001, rounds: int = 30) -> tuple[Refill, float]:
    """Habits learned in a closed loop of `clients`, of whom `share` come back `after_s` after each batch."""
    refill, now = Refill(), 0.0
    for _ in range(rounds):
        refill.answered(clients, RUN_S, now)
        for _ in range(int(clients * share)):
            refill.arrived(now + after_s)
        now += RUN_S
    refill.answered(clients, RUN_S, now)
    return refill, now


def test_it_knows_nobody_at_first() -> None:
    refill = Refill()
    assert refill.hold_until(1, 31, FIXED_S) == 0.0
    refill.answered(8, RUN_S, 1.0)
    assert refill.hold_until(1, 31, FIXED_S) == 0.0


def test_it_waits_for_clients_that_usually_return() -> None:
    refill, now = returning(8)
    until = refill.hold_until(1, 24, FIXED_S)
    assert now < until <= now + RUN_S / 4


def test_it_lets_go_when_nine_of_ten_are_in() -> None:
    refill, now = returning(20)
    for arrived in range(1, 17):
        refill.arrived(now + 0.001)
        assert refill.hold_until(arrived, 64 - arrived, FIXED_S) > now
    refill.arrived(now + 0.001)
    refill.arrived(now + 0.001)
    assert refill.hold_until(18, 46, FIXED_S) == 0.0


def test_those_who_are_in_do_not_make_the_room_for_the_others_count_twice() -> None:
    """32 clients, room for 32: at 16 there is room for 16 more, and 16 more are to come."""
    refill, now = returning(32)
    for _ in range(16):
        refill.arrived(now + 0.001)
    assert refill.hold_until(16, 16, FIXED_S) > now


def test_a_lone_client_is_not_waited_for() -> None:
    refill, _ = returning(1)
    assert refill.hold_until(1, 31, FIXED_S) == 0.0


def test_it_does_not_wait_for_clients_who_do_not_return() -> None:
    refill, _ = returning(8, share=0.0)
    assert refill.hold_until(1, 24, FIXED_S) == 0.0


def test_it_does_not_wait_where_no_fixed_cost_is_saved() -> None:
    refill, _ = returning(8)
    assert refill.hold_until(1, 24, 0.00005) == 0.0


def test_many_who_wait_outweigh_what_is_saved() -> None:
    refill, _ = returning(8)
    assert refill.hold_until(1, 24, 0.002) > 0.0
    assert refill.hold_until(20, 24, 0.002) == 0.0


def test_a_full_batch_is_not_held() -> None:
    refill, _ = returning(8)
    assert refill.hold_until(32, 0, FIXED_S) == 0.0
    assert refill.hold_until(40, -8, FIXED_S) == 0.0


def test_a_window_too_short_for_a_timer_is_no_window() -> None:
    refill, _ = returning(8, after_s=MIN_WINDOW_S / 4)
    assert refill.hold_until(1, 24, FIXED_S) == 0.0


def test_arrivals_long_after_the_batch_are_no_returns() -> None:
    refill, _ = returning(8, after_s=RUN_S / 2)
    assert refill.hold_until(1, 24, FIXED_S) == 0.0
