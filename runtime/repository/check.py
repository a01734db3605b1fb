"""What `spillway config check DIR` says: every mistake of a repository, and for each model the config that would work.

Reads the same files by the same functions as the daemon, and lets the same gate look at each model; serves nothing.
Blocking. Models are in the order of their names.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.core.errors import LoadFailed
from runtime.core.verdict import GraphFacts
from runtime.repository.complete import can_batch, fill_in, is_partial
from runtime.repository.config_text import ORIGIN_TEXT, decode_text, hints, refused
from runtime.repository.correct import correct, to_text
from runtime.repository.disagree import disagreements
from runtime.repository.fields import without_refused
from runtime.repository.gate import Gate
from runtime.repository.layout import CONFIG_FILE, list_models, list_versions
from runtime.repository.locate import line_of
from runtime.repository.policy import wanted_versions
from runtime.repository.settings import RepositorySettings
from runtime.repository.source import make_candidate
from runtime.repository.spec import make_spec
from runtime.wire.pb import model_config_pb2 as pb


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to say: an `error` keeps the model from being served, a `hint` does not. `place` is FILE[:LINE]."""

    severity: Literal["error", "hint"]
    place: str
    message: str


@dataclass(slots=True)
class ModelReport:
    """What was found in one model's folder. `corrected` is a whole config.pbtxt; empty where the graph is not known."""

    name: str
    folder: Path
    findings: list[Finding] = field(default_factory=list)
    corrected: str = ""

    @property
    def is_good(self) -> bool:
        """Tell whether the model can be served as it is."""
        return not any(each.severity == "error" for each in self.findings)

    def error(self, place: str, message: str) -> None:
        """Add something that keeps the model from being served, once."""
        finding = Finding("error", f"{self.name}/{place}", message)
        if finding not in self.findings:
            self.findings.append(finding)

    def hint(self, place: str, message: str) -> None:
        """Add something worth knowing, once."""
        finding = Finding("hint", f"{self.name}/{place}", message)
        if finding not in self.findings:
            self.findings.append(finding)


@dataclass(frozen=True, slots=True)
class RepositoryReport:
    """What was found in all repositories; `ignored` are things in them that are no models."""

    ignored: tuple[Finding, ...]
    models: tuple[ModelReport, ...]

    @property
    def is_good(self) -> bool:
        """Tell whether every model can be served as it is."""
        return all(model.is_good for model in self.models)


@dataclass(frozen=True, slots=True)
class _Written:
    """A config as far as it could be read, without what is refused, and the text it was."""

    config: pb.ModelConfig
    text: str

    def place(self, *path: tuple[str, int | str | None]) -> str:
        line = line_of(self.text, path)
        return f"{CONFIG_FILE}:{line}" if line else CONFIG_FILE


def check_repository(settings: RepositorySettings, gate: Gate) -> RepositoryReport:
    """Check every model of `settings.directories`.

    Raises:
        ConfigError: a directory cannot be read.
    """
    listing = list_models(settings.directories, settings.max_models)
    ignored = tuple(Finding("hint", str(each.path), f"ignored: {each.reason}") for each in listing.ignored)
    reports = [ModelReport(name, folder) for name, folder in listing.folders.items()]
    for report in reports:
        _check_model(report, settings, gate)
    return RepositoryReport(ignored, tuple(reports))


def _check_model(report: ModelReport, settings: RepositorySettings, gate: Gate) -> None:
    written = _read_config(report, settings)
    try:
        versions = list_versions(report.folder)
        numbers = wanted_versions(written.config.version_policy, versions.numbers)
    except (ValueError, OSError) as error:
        report.error("", str(error))
        return
    for each in versions.ignored:
        report.hint(each.path.name, f"ignored: {each.reason}")
    graph = None
    for number in numbers:
        graph = _check_version(report, number, written, settings, gate) or graph
    if graph is not None:
        _advise(report, written, graph)
        right = correct(written.config, graph, default_max_batch_size=settings.default_max_batch_size)
        report.corrected = to_text(right)


def _read_config(report: ModelReport, settings: RepositorySettings) -> _Written:
    """Report what is wrong with the text itself; return what is left, so that the graph can still be compared."""
    config, text = pb.ModelConfig(), ""
    try:
        path = report.folder / CONFIG_FILE
        if path.exists():
            config, text = decode_text(path.read_bytes(), settings.max_config_bytes)
    except (ValueError, OSError) as error:
        _error_at(report, str(error))
    for reason in refused(config, text, ORIGIN_TEXT):
        _error_at(report, reason)
    usable = without_refused(config)
    usable.name = report.name
    usable.max_batch_size = max(0, usable.max_batch_size)
    for name in ("platform", "backend", "runtime"):
        usable.ClearField(name)
    written = _Written(usable, text)
    for each in hints(config, text):
        report.hint(f"{CONFIG_FILE}:{each.line}", f"{each.name} is skipped: {each.reason}")
    if config.name not in ("", report.name):
        message = f"name '{config.name}' is not that of the folder: write name: \"{report.name}\""
        report.error(written.place(("name", None)), message)
    return written


def _error_at(report: ModelReport, text: str) -> None:
    """Report an error whose text starts with its place, where it knows one."""
    place, colon, message = text.partition(": ")
    if colon and place.startswith(ORIGIN_TEXT):
        report.error(place, message)
    else:
        report.error(CONFIG_FILE, text)


def _check_version(
    report: ModelReport, number: int, written: _Written, settings: RepositorySettings, gate: Gate
) -> GraphFacts | None:
    """Examine one version; returns its graph if the trial could tell it."""
    bare = pb.ModelConfig(name=report.name, default_model_filename=written.config.default_model_filename)
    # a config that is wrong may keep the trial from telling the graph: then it is asked without one
    reason = ""
    for config in (written.config, bare):
        try:
            candidate = make_candidate(report.name, report.folder, number, config, settings)
        except (ValueError, OSError) as error:
            reason = reason or str(error)
            continue
        verdict = gate.examine(candidate)
        reason = reason or (f"{verdict.stage}: {verdict.error}" if verdict.error else "")
        if verdict.graph is not None:
            if not _compare(report, number, written, verdict.graph, settings) and reason:
                report.error(str(number), reason)
            return verdict.graph
    report.error(str(number), reason)
    return None


def _compare(
    report: ModelReport, number: int, written: _Written, graph: GraphFacts, settings: RepositorySettings
) -> bool:
    """Report contradictions between config and graph, and what the spec refuses; tell whether there were any."""
    full = fill_in(written.config, graph, default_max_batch_size=settings.default_max_batch_size)
    wrong = disagreements(full, graph)
    for each in wrong:
        path: list[tuple[str, int | str | None]] = [(each.kind, each.index)]
        if each.part != "entry":
            path.append((each.part, None))
        report.error(written.place(*path), each.text)
    if wrong:
        return True
    path_of_model = report.folder / str(number)
    try:
        make_spec(full, graph, name=report.name, version=number, path=path_of_model, folder=report.folder)
    except LoadFailed as error:
        report.error(CONFIG_FILE, error.reason)
        return True
    return False


def _advise(report: ModelReport, written: _Written, graph: GraphFacts) -> None:
    """Say what is legal and yet rarely meant."""
    config = written.config
    if not written.text or is_partial(config, graph):
        return
    if config.max_batch_size > 1 and not config.HasField("dynamic_batching"):
        report.hint(
            written.place(("max_batch_size", None)),
            f"max_batch_size {config.max_batch_size} without dynamic_batching: requests never share a batch; "
            "add dynamic_batching { }",
        )
    if not config.max_batch_size and can_batch(graph):
        report.hint(
            CONFIG_FILE,
            "the first axis of every tensor is dynamic, but max_batch_size is 0: requests never share a batch",
        )
    _advise_on_outputs(report, [each.name for each in config.output], graph)


def _advise_on_outputs(report: ModelReport, listed: Sequence[str], graph: GraphFacts) -> None:
    if left_out := [each.name for each in graph.outputs if each.name not in listed]:
        report.hint(CONFIG_FILE, f"outputs {left_out} of the graph are not listed, and so not served")
