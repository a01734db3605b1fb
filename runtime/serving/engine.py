"""The front door: everything that a transport knows of serving.

Finds who serves a model and hands the request on. It holds no queue and takes no decision of its own.
"""

import asyncio

from runtime.core.errors import Draining, SpillwayError
from runtime.core.inference import Catalogue, Done, InferRequest, InferResult, Outcome


class Engine:
    """One for all transports. Event loop only."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._draining = False

    @property
    def draining(self) -> bool:
        """True once new requests are refused."""
        return self._draining

    def submit(self, request: InferRequest, done: Done) -> None:
        """Take one request; never blocks, and calls `done` exactly once, later. See `core.inference`."""
        try:
            if self._draining:
                raise Draining
            scheduler = self._catalogue.find(request.head.model_name, request.head.model_version)
        except SpillwayError as error:
            asyncio.get_running_loop().call_soon(_refuse, request, done, error)
            return
        scheduler.submit(request, done)

    async def infer(self, request: InferRequest) -> InferResult:
        """`submit` for callers that may wait; cancelling the wait cancels the request. Raises SpillwayError."""
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if not answer.done():
                answer.set_result(outcome)

        self.submit(request, done)
        try:
            outcome = await answer
        except asyncio.CancelledError:
            request.cancel()
            raise
        if isinstance(outcome, SpillwayError):
            raise outcome
        return outcome

    def refuse_new(self) -> None:
        """From now on every new request gets `Draining`; what is in flight ends by itself."""
        self._draining = True


def _refuse(request: InferRequest, done: Done, error: SpillwayError) -> None:
    request.release()
    done(error)
