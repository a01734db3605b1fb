"""What a batcher learned of its clients and of its devices, by shape key; bounded."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from runtime.core.verdict import RunCost
from runtime.serving.binding import ShapeKey
from runtime.serving.cost import CostModel
from runtime.serving.refill import Refill

MAX_KEYS = 256
"""Shape keys that are remembered; the oldest is forgotten first."""
LEARN = 0.1


class Habits(NamedTuple):
    """Of one shape key: how long batches run, and when answered clients come back."""

    cost: CostModel
    refill: Refill


class Learned:
    """Run times and return habits. `seed` is what the trial measured; it holds for the first shape key only.

    `handover_s` is how long a batch holds its device beside its run: joined inputs, two changes of thread, and an event
    loop that had other things to do. Under overload it is a tenth of a short run, which a full queue adds up.
    """

    def __init__(self, max_rows: int, overhead_s: Callable[[], float], seed: Sequence[RunCost]) -> None:
        self._max_rows = max(1, max_rows)
        self._overhead_s = overhead_s
        self._seed = seed
        self._habits: dict[ShapeKey, Habits] = {}
        self.handover_s = 0.0

    def note_handover(self, seconds: float) -> None:
        """Learn from a finished batch."""
        self.handover_s += LEARN * (seconds - self.handover_s)

    def costs(self) -> dict[ShapeKey, CostModel]:
        """Run times by shape key, for people to look at."""
        return {key: habits.cost for key, habits in self._habits.items()}

    def of(self, key: ShapeKey) -> Habits:
        """What is known of one shape key."""
        habits = self._habits.get(key)
        if habits is None:
            if len(self._habits) >= MAX_KEYS:
                del self._habits[next(iter(self._habits))]
            seed, self._seed = self._seed, ()
            habits = self._habits[key] = Habits(CostModel(self._max_rows, self._overhead_s(), seed), Refill())
        return habits
