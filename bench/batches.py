"""Batch sizes as a server's own statistics tell them (the protocol's ModelStatistics), between two moments."""

from dataclasses import dataclass

import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from bench.environments import Unavailable


@dataclass(frozen=True)
class Counts:
    """Totals since the model was loaded."""

    rows: int
    runs: int
    infer_ns: int  # wall time of all runs

    def since(self, before: "Counts") -> "Counts":
        """What came between."""
        return Counts(self.rows - before.rows, self.runs - before.runs, self.infer_ns - before.infer_ns)

    @property
    def mean_batch(self) -> float:
        """Rows of one run on average."""
        return self.rows / max(1, self.runs)

    @property
    def wall_ms_per_row(self) -> float:
        """Wall time of the runs for one row."""
        return self.infer_ns / max(1, self.rows) / 1e6


def read(address: str, model: str) -> Counts:
    """The counts now.

    Raises:
        Unavailable: the server does not tell.
    """
    client = tritonclient.grpc.InferenceServerClient(address)
    try:
        (now,) = client.get_inference_statistics(model).model_stats
    except InferenceServerException as error:
        raise Unavailable(f"no statistics: {error}") from error
    finally:
        client.close()
    infer_ns = sum(batch.compute_infer.ns for batch in now.batch_stats)
    return Counts(rows=now.inference_count, runs=now.execution_count, infer_ns=infer_ns)
