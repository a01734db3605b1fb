"""What is served, as messages of the protocol. Pure functions of the repository's and the statistics' plain values."""

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from runtime.core.tensor import TensorSpec
from runtime.repository.index import IndexEntry, ModelState, ServedModel
from runtime.serving.statistics import BatchStatistics, Duration, Statistics
from runtime.wire.pb import inference_pb2 as pb

PLATFORM = "onnxruntime_onnx"

_TRITON_STATES: dict[ModelState, str] = {
    "LOADING": "LOADING",
    "READY": "READY",
    "UNLOADING": "UNLOADING",
    "UNLOADED": "UNAVAILABLE",
    "FAILED": "UNAVAILABLE",
}


@runtime_checkable
class Measured(Protocol):
    """A scheduler that counts."""

    @property
    def statistics(self) -> Statistics:
        """Its counters."""
        ...


def metadata(served: ServedModel) -> pb.ModelMetadataResponse:
    """Inputs and outputs as a request must name them: with the batch axis, where there is one."""
    batching = served.spec.max_batch_size > 0
    return pb.ModelMetadataResponse(
        name=served.name,
        versions=[str(version) for version in served.versions],
        platform=served.config.platform or PLATFORM,
        inputs=[_tensor(spec, batching=batching) for spec in served.spec.inputs],
        outputs=[_tensor(spec, batching=batching) for spec in served.spec.outputs],
    )


def statistics(versions: Iterable[ServedModel]) -> pb.ModelStatisticsResponse:
    """Counters of every version that keeps some."""
    return pb.ModelStatisticsResponse(
        model_stats=[
            _statistics(served.name, served.version, served.scheduler.statistics)
            for served in versions
            if isinstance(served.scheduler, Measured)
        ]
    )


def index(entries: Sequence[IndexEntry], *, only_ready: bool) -> pb.RepositoryIndexResponse:
    """The repository's index in Triton's words; a model that was never loaded has a name and nothing else."""
    return pb.RepositoryIndexResponse(
        models=[
            pb.RepositoryIndexResponse.ModelIndex(
                name=entry.name,
                version=str(entry.version or ""),
                state=_state(entry),
                reason=entry.reason,
            )
            for entry in entries
            if entry.state == "READY" or not only_ready
        ]
    )


def _state(entry: IndexEntry) -> str:
    never_loaded = entry.state == "UNLOADED" and not entry.version and not entry.reason
    return "" if never_loaded else _TRITON_STATES[entry.state]


def _tensor(spec: TensorSpec, *, batching: bool) -> pb.ModelMetadataResponse.TensorMetadata:
    shape = (-1, *spec.dims) if batching else spec.dims
    return pb.ModelMetadataResponse.TensorMetadata(name=spec.name, datatype=spec.datatype, shape=shape)


def _statistics(name: str, version: int, counted: Statistics) -> pb.ModelStatistics:
    return pb.ModelStatistics(
        name=name,
        version=str(version),
        last_inference=counted.last_inference_ms,
        inference_count=counted.inference_count,
        execution_count=counted.execution_count,
        inference_stats=pb.InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.compute_input),
            compute_infer=_duration(counted.compute_infer),
            compute_output=_duration(counted.compute_output),
            # There is no response cache; clients read these without asking whether they are there.
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
        batch_stats=[_batch(rows, batch) for rows, batch in sorted(counted.batches.items())],
    )


def _batch(rows: int, batch: BatchStatistics) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=rows,
        compute_input=_duration(batch.compute_input),
        compute_infer=_duration(batch.compute_infer),
        compute_output=_duration(batch.compute_output),
    )


def _duration(counted: Duration) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=counted.count, ns=counted.ns)
