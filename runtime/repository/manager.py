"""The models of this node: loads, replaces and unloads them, and finds them for each request.

    call -> Source (disk, in a thread) -> Gate (trial, in a thread) -> Loader -> index -> old versions drained

Rules
- Loads and unloads of one model are serialised; different models do not wait for each other, but for the one trial.
- A load is all or nothing: new versions are loaded and warm before any is published, all are published in one step,
  and what they replace is drained and closed after it. If anything fails, what was served is still served, what was
  staged is closed, and its files are removed. Only where memory is short do the old versions go first (`policy.py`):
  then a failure leaves nothing served.
- A load once begun runs to its end, whatever becomes of the call that asked for it.
- Unchanged files and config are not loaded again.
- Event loop only. Disk, digests and trials are in worker threads; no lock is held while a request is served.
"""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakValueDictionary

from runtime.core.clock import monotonic
from runtime.core.errors import (
    ConfigError,
    ControlDisabled,
    Draining,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    RepositoryError,
)
from runtime.core.inference import Scheduler
from runtime.core.model import ModelSpec
from runtime.core.tensor import Buffer
from runtime.core.verdict import Verdict
from runtime.repository import memory, policy
from runtime.repository.examine import Examined, Examiner, needed_bytes
from runtime.repository.gate import Candidate, Gate
from runtime.repository.index import Entry, IndexEntry, ServedModel, ServingIndex
from runtime.repository.layout import list_models
from runtime.repository.overrides import OverrideStore
from runtime.repository.settings import RepositorySettings
from runtime.repository.source import Override, Source

log = logging.getLogger(__name__)


class Loader(Protocol):
    """Makes a scheduler of a spec. Calls for different versions may overlap."""

    async def load(self, spec: ModelSpec, verdict: Verdict) -> Scheduler:
        """Load the sessions and warm them up; the scheduler answers when this returns.

        Nothing is left behind when it raises or is cancelled.

        Raises:
            LoadFailed: the runtime refused the model.
        """
        ...


class ModelManager:
    """Implements `core.inference.Catalogue`. Construct cheap, `start` once, `stop` once."""

    def __init__(self, settings: RepositorySettings, gate: Gate, loader: Loader) -> None:
        self._settings = settings
        self._examiner = Examiner(gate, settings.default_max_batch_size)
        self._loader = loader
        self._overrides = OverrideStore(settings)
        self._source = Source(settings, self._overrides)
        self._index = ServingIndex()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._work: set[asyncio.Task[None]] = set()
        self._on_disk: tuple[str, ...] = ()
        self._required: set[str] = set()
        self._started = False
        self._stopping = False

    async def start(self, names: Sequence[str] | None = None) -> None:
        """Load the models named (`*`: all); None means all in mode none and nothing in mode explicit.

        A model that fails is FAILED in the index with its reason, and the next one's turn comes.

        Raises:
            ConfigError: a repository cannot be read.
        """
        await asyncio.to_thread(self._overrides.sweep)
        await self.rescan()
        if names is None:
            names = ("*",) if self._settings.control_mode == "none" else ()
        chosen = self._on_disk if "*" in names else tuple(dict.fromkeys(names))
        self._required.update(chosen)
        for name in chosen:
            if not self._stopping:
                await self._start_one(name)
        self._started = True
        await self._examiner.rest()

    async def rescan(self) -> None:
        """Look again which models the repositories hold, for `index`. Raises ConfigError as `start` does."""
        listing = await asyncio.to_thread(list_models, self._settings.directories, self._settings.max_models)
        self._on_disk = tuple(listing.folders)
        if not self._started:
            for each in listing.ignored:
                log.warning("ignored in repository", extra={"path": str(each.path), "reason": each.reason})

    def find(self, model: str, version: str) -> Scheduler:
        """The scheduler of a version; see `core.inference.Catalogue`."""
        return self._index.find(model, version)

    def index(self) -> list[IndexEntry]:
        """Every version that was ever asked for, and models on disk that were not (as of the last `rescan`)."""
        return self._index.listing(self._on_disk)

    def describe(self, model: str, version: str) -> ServedModel:
        """Everything about a version that is ready. Raises as `find` does."""
        return self._index.describe(model, version)

    def served(self) -> list[ServedModel]:
        """Everything about all versions that are ready."""
        return self._index.served()

    def is_ready(self, model: str, version: str) -> bool:
        """Tell whether a version, or any where `version` is empty, is ready. Raises InvalidRequest for a bad number."""
        try:
            self._index.find(model, version)
        except (ModelNotFound, ModelNotReady):
            return False
        return True

    def all_ready(self) -> bool:
        """Tell whether the start is over and, with `strict_readiness`, each model it asked for has a ready version.

        A model that was unloaded since by a call does not count, nor does a load that failed since.
        """
        if not self._started or self._stopping:
            return False
        return not self._settings.strict_readiness or all(self._index.serving(name) for name in self._required)

    async def load(self, name: str, config_json: str | None = None, files: Mapping[str, Buffer] | None = None) -> None:
        """Load or reload a model; returns when its new versions answer and the old ones are gone.

        `config_json` replaces config.pbtxt; `files` (names as in the protocol, `file:1/model.onnx`) replace the
        folder's versions and need `config_json`.

        Raises:
            ControlDisabled, Draining: no loads in this mode, or any more.
            InvalidRequest: files without a config.
            PollFailed, LoadFailed: what was served before is still served.
        """
        self._check_control()
        if files and config_json is None:
            raise InvalidRequest(f"failed to load '{name}', override files need the parameter 'config' too")
        override = None if config_json is None else Override(config_json, files or {})
        await self._run(self._load(name, override))

    async def unload(self, name: str) -> None:
        """Unload all versions of a model; returns when they are gone. A model that is not known is none to unload.

        Raises:
            ControlDisabled, Draining: as in `load`.
        """
        self._check_control()
        self._required.discard(name)
        await self._run(self._unload(name))

    async def stop(self) -> None:
        """Refuse new loads, end the trial, then drain and unload everything. Idempotent."""
        self._stopping = True
        await self._examiner.close()
        while self._work:
            await asyncio.wait(set(self._work))
        await asyncio.gather(*(self._unload(name) for name in self._index.names()))
        await asyncio.to_thread(self._overrides.close)

    def _check_control(self) -> None:
        if self._stopping:
            raise Draining
        if self._settings.control_mode == "none":
            raise ControlDisabled(self._settings.control_mode)

    async def _start_one(self, name: str) -> None:
        try:
            await self._run(self._load(name, None))
        except (RepositoryError, Draining):
            return  # logged and in the index
        except Exception:
            log.exception("load failed by a fault of the server", extra={"model": name})

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` to its end even if the caller is cancelled meanwhile."""
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        task.add_done_callback(_note_unheard)
        await asyncio.shield(task)

    async def _load(self, name: str, override: Override | None) -> None:
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            if self._stopping:
                raise Draining
            try:
                wanted = await asyncio.to_thread(self._source.read, name, override)
                await self._serve(name, wanted)
            except RepositoryError as error:
                log.warning("load failed", extra={"model": name, "reason": str(error)})
                await self._remember_failure(name, str(error))
                raise
            finally:
                await self._tidy(name)
        if self._started and len(self._work) == 1:
            await self._examiner.rest()

    async def _remember_failure(self, name: str, reason: str) -> None:
        """Say in the index why a model is not there. A name on no disk leaves no trace: the index is bounded."""
        if self._index.entries(name):
            return
        with contextlib.suppress(ConfigError):
            await self.rescan()
        if name in (*self._on_disk, *self._required):
            self._index.update(name, {0: Entry("FAILED", reason)})

    async def _serve(self, name: str, wanted: Mapping[int, Candidate]) -> None:
        """Make `wanted` what is served, or leave everything as it was."""
        serving = self._marks(name)
        missing = {number: each for number, each in wanted.items() if serving.get(number) != each.mark}
        self._announce_loading(name, wanted, missing)
        try:
            examined = {number: await self._examiner.examine(each) for number, each in sorted(missing.items())}
            order = self._order(name, wanted, examined)
            await self._act(name, {number: each.mark for number, each in wanted.items()}, examined, order)
        except BaseException as error:
            reason = str(error) if isinstance(error, RepositoryError) else "internal error"
            self._announce_failed(name, missing, reason)
            raise

    async def _act(
        self, name: str, wanted: Mapping[int, str], examined: Mapping[int, Examined], order: policy.Order
    ) -> None:
        staged: dict[int, ServedModel] = {}
        try:
            while True:
                now = policy.Snapshot(wanted, self._marks(name), staged, order)
                match policy.next_action(now):
                    case policy.Load(version):
                        if version not in now.serving:
                            self._index.update(name, {version: Entry("LOADING")})
                        staged[version] = await self._stage(examined[version])
                    case policy.Publish():
                        replaced = self._publish(name, staged)
                        staged = {}
                        await self._retire(replaced)
                    case policy.Unload(version):
                        await self._unload_versions(name, [version])
                    case None:
                        return
        finally:
            for each in staged.values():
                await each.scheduler.close()

    def _order(self, name: str, wanted: Mapping[int, Candidate], examined: Mapping[int, Examined]) -> policy.Order:
        """Decide whether old or new goes first, by the memory that the trials saw."""
        needed = sum(needed_bytes(each.verdict) for each in examined.values())
        old = [each for number, each in self._index.serving(name).items() if number in examined or number not in wanted]
        freed = sum(needed_bytes(each.verdict) for each in old)
        available = memory.available_bytes()
        order = policy.swap_order(needed, available, freed)
        if order is None:
            raise LoadFailed(
                name,
                f"it needs {needed >> 20} MiB of memory, {available >> 20} MiB are available and unloading what it "
                f"replaces would free {freed >> 20} MiB",
            )
        return order

    async def _stage(self, examined: Examined) -> ServedModel:
        candidate = examined.candidate
        began = monotonic()
        scheduler = await self._loader.load(examined.spec, examined.verdict)
        if not await asyncio.to_thread(candidate.digest.is_current):
            await scheduler.close()
            raise LoadFailed(candidate.model, f"version {candidate.version}: the files changed while they were loaded")
        extra = {"model": candidate.model, "version": candidate.version, "provider": examined.verdict.provider}
        log.info("version loaded", extra={**extra, "load_s": monotonic() - began})
        return ServedModel(
            name=candidate.model,
            version=candidate.version,
            versions=(),
            config=examined.config,
            spec=examined.spec,
            verdict=examined.verdict,
            scheduler=scheduler,
            candidate=candidate,
        )

    def _publish(self, name: str, staged: Mapping[int, ServedModel]) -> list[ServedModel]:
        """Let staged versions answer, all in one step; returns those they replace."""
        serving = self._index.serving(name)
        self._index.update(name, {number: Entry("READY", served=each) for number, each in staged.items()})
        log.info("versions ready", extra={"model": name, "versions": sorted(staged)})
        return [serving[number] for number in staged if number in serving]

    async def _unload(self, name: str) -> None:
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            known = self._index.entries(name)
            await self._unload_versions(name, list(self._index.serving(name)))
            self._index.update(name, {number: Entry("UNLOADED", "unloaded") for number in known})
            await self._tidy(name)

    async def _unload_versions(self, name: str, numbers: Sequence[int]) -> None:
        serving = self._index.serving(name)
        self._index.update(name, {number: Entry("UNLOADING", served=serving[number]) for number in numbers})
        await self._retire([serving[number] for number in numbers])
        self._index.update(name, {number: Entry("UNLOADED", "unloaded") for number in numbers})

    async def _retire(self, versions: Sequence[ServedModel]) -> None:
        """Let versions that are no longer found finish what they have, then give their memory back."""
        if versions:
            await asyncio.gather(*(self._drain(each) for each in versions))
            await asyncio.to_thread(memory.give_back)

    async def _drain(self, served: ServedModel) -> None:
        extra = {"model": served.name, "version": served.version}
        try:
            async with asyncio.timeout(self._settings.drain_timeout_s):
                await served.scheduler.drain()
        except TimeoutError:
            log.warning("drain cut short", extra={**extra, "limit_s": self._settings.drain_timeout_s})
        await served.scheduler.close()
        log.info("version unloaded", extra=extra)

    async def _tidy(self, name: str) -> None:
        """Remove override folders that nothing is served from."""
        in_use: set[Path] = {each.candidate.folder for each in self._index.serving(name).values()}
        await asyncio.to_thread(self._overrides.keep_only, name, in_use)

    def _marks(self, name: str) -> dict[int, str]:
        return {number: each.candidate.mark for number, each in self._index.serving(name).items()}

    def _announce_loading(self, name: str, wanted: Mapping[int, Candidate], missing: Mapping[int, Candidate]) -> None:
        serving = self._index.serving(name)
        changes: dict[int, Entry | None] = {
            number: None for number in self._index.entries(name) if number not in wanted and number not in serving
        }
        changes |= {number: Entry("LOADING") for number in missing if number not in serving}
        self._index.update(name, changes)

    def _announce_failed(self, name: str, missing: Mapping[int, Candidate], reason: str) -> None:
        """Say so where nothing answers; a version that is still served stays READY, with the reason beside it."""
        serving = self._index.serving(name)
        self._index.update(
            name,
            {
                number: Entry("READY", f"last load failed: {reason}", serving[number])
                if number in serving
                else Entry("FAILED", reason)
                for number in missing
            },
        )


def _note_unheard(task: asyncio.Task[None]) -> None:
    """Fetch the error of work whose caller has gone: it is in the log and the index, asyncio need not complain."""
    if not task.cancelled():
        task.exception()
