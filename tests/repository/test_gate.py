"""The gate: verdicts from trials, kept by all they depend on."""

import logging
import sys
from pathlib import Path

import msgspec
import pytest

from runtime.core.verdict import TrialJob, Verdict
from runtime.repository.gate import Candidate, Gate, machine, runtime_versions
from runtime.repository.settings import RepositorySettings
from runtime.repository.source import make_candidate
from runtime.repository.verdicts import VerdictCache
from tests.fakes.trial import FakeTrial
from tests.repository.configs import config, write_model

SETTINGS = RepositorySettings()
ACCEPTED = Verdict(provider="cpu")


def gate_of(
    trial: FakeTrial, folder: Path, settings: RepositorySettings = SETTINGS, providers: tuple[str, ...] = ("cpu",)
) -> Gate:
    return Gate(trial, VerdictCache(folder, 100), settings, providers, 2)


def candidate_of(repository: Path, content: bytes = b"one", text: str = "", name: str = "m") -> Candidate:
    folder = write_model(repository, name, {1: content})
    return make_candidate(name, folder, 1, config(text, name), SETTINGS)


def test_a_verdict_is_kept_and_recalled(tmp_path: Path) -> None:
    trial = FakeTrial()
    gate = gate_of(trial, tmp_path / "verdicts")
    candidate = candidate_of(tmp_path)
    assert gate.recall(candidate) is None
    verdict = gate.examine(candidate)
    assert not verdict.error
    assert gate.examine(candidate) == verdict
    assert gate.recall(candidate) == verdict
    assert gate_of(FakeTrial(), tmp_path / "verdicts").recall(candidate) == verdict, "another process, same disk"
    assert len(trial.jobs) == 1


def test_the_job_says_what_the_node_is(tmp_path: Path) -> None:
    trial = FakeTrial()
    settings = RepositorySettings(default_max_batch_size=7, probe_s=0.1, follow_links=True)
    gate_of(trial, tmp_path / "verdicts", settings, ("cuda", "cpu")).examine(candidate_of(tmp_path))
    (job,) = trial.jobs
    assert (job.model, job.version) == ("m", 1)
    assert job.path == str(tmp_path / "m" / "1" / "model.onnx")
    assert job.folder == str(tmp_path / "m")
    assert job.providers == ("cuda", "cpu")
    assert (job.thread_budget, job.default_max_batch_size, job.probe_s) == (2, 7, 0.1)
    assert job.allow_external_links


def test_everything_a_verdict_depends_on_is_in_its_key(tmp_path: Path) -> None:
    trial = FakeTrial()
    verdicts = tmp_path / "verdicts"
    gate_of(trial, verdicts).examine(candidate_of(tmp_path))
    others = [
        gate_of(trial, verdicts).recall(candidate_of(tmp_path / "2", b"two")),
        gate_of(trial, verdicts).recall(candidate_of(tmp_path / "3", text="max_batch_size: 2")),
        gate_of(trial, verdicts, providers=("cuda",)).recall(candidate_of(tmp_path)),
        gate_of(trial, verdicts, RepositorySettings(default_max_batch_size=3)).recall(candidate_of(tmp_path)),
        Gate(trial, VerdictCache(verdicts, 100), SETTINGS, ("cpu",), 3).recall(candidate_of(tmp_path)),
    ]
    assert others == [None] * 5
    same = candidate_of(tmp_path / "elsewhere", name="other")
    assert gate_of(trial, verdicts).recall(same) is not None, "name and place do not count"


def test_a_verdict_on_links_is_none_on_plain_files(tmp_path: Path) -> None:
    """The same bytes, hard-linked, linked and copied: the check may refuse the first two."""
    trial = FakeTrial()
    gate = gate_of(trial, tmp_path / "verdicts")
    (tmp_path / "elsewhere").write_bytes(b"one")
    path = candidate_of(tmp_path).path
    recalled = []
    for link in (path.hardlink_to, path.symlink_to):
        path.unlink()
        link(tmp_path / "elsewhere")
        candidate = make_candidate("m", path.parents[1], 1, config("", "m"), RepositorySettings(follow_links=True))
        recalled.append(gate.recall(candidate))
        gate.examine(candidate)
    path.unlink()
    recalled.append(gate.recall(candidate_of(tmp_path)))
    assert recalled == [None] * 3
    assert len(trial.jobs) == 2


@pytest.mark.parametrize(
    ("stage", "is_kept"), [("check", True), ("load", False), ("warm-up", False), ("memory", False), ("crash", False)]
)
def test_only_certain_refusals_are_kept(tmp_path: Path, stage: str, *, is_kept: bool) -> None:
    trial = FakeTrial()
    trial.refusals[1] = Verdict(stage=stage, error="no")
    gate = gate_of(trial, tmp_path / "verdicts")
    candidate = candidate_of(tmp_path)
    assert gate.examine(candidate).error == "no"
    assert (gate.recall(candidate) is not None) == is_kept


def test_files_that_change_under_the_trial_are_refused(tmp_path: Path) -> None:
    trial = FakeTrial()
    gate = gate_of(trial, tmp_path / "verdicts")
    candidate = candidate_of(tmp_path)
    trial.before = lambda job: Path(job.path).write_bytes(b"half")  # a writer who is not done yet
    verdict = gate.examine(candidate)
    assert (verdict.stage, verdict.error) == ("check", "the files changed while they were examined")
    assert gate.recall(candidate) is None


def test_marks_tell_versions_that_need_not_be_loaded_again(tmp_path: Path) -> None:
    first = candidate_of(tmp_path)
    assert first.mark == candidate_of(tmp_path).mark
    assert first.mark != candidate_of(tmp_path, text="max_batch_size: 2").mark
    assert first.mark != candidate_of(tmp_path, b"two").mark


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stage": 3}', b"\xff\xfe", b'{"graph": {"inputs": 1}}'])
def test_a_corrupt_entry_is_ignored_and_rewritten(tmp_path: Path, content: bytes) -> None:
    cache = VerdictCache(tmp_path, 10)
    cache.put("k", ACCEPTED)
    (tmp_path / "k.json").write_bytes(content)
    assert cache.get("k") is None
    cache.put("k", ACCEPTED)
    assert cache.get("k") == ACCEPTED


def test_an_entry_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the limit is 16 MiB: lowered here rather than written out on disk
    monkeypatch.setattr("runtime.repository.verdicts.MAX_ENTRY_BYTES", 10)
    cache = VerdictCache(tmp_path, 10)
    cache.put("k", ACCEPTED)
    assert cache.get("k") is None


def test_the_oldest_entries_go_first(tmp_path: Path) -> None:
    cache = VerdictCache(tmp_path, 2)
    for key in ("a", "b", "c"):
        cache.put(key, ACCEPTED)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "c.json"]


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = VerdictCache(tmp_path / "file" / "verdicts", 10)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache.put("k", ACCEPTED)
    assert [record.message for record in caplog.records] == ["verdicts are not cached"]


def test_a_verdict_survives_the_cache(tmp_path: Path) -> None:
    verdict = FakeTrial().try_model(_job())
    cache = VerdictCache(tmp_path, 10)
    cache.put("k", verdict)
    assert cache.get("k") == verdict
    assert msgspec.json.decode((tmp_path / "k.json").read_bytes(), type=Verdict) == verdict


def test_versions_and_machine_are_known_without_importing_the_runtime() -> None:
    assert any(each.startswith("onnx 1.") for each in runtime_versions())
    processor, cores, _ = machine()
    assert processor
    assert int(cores) >= 1
    assert "runtime.repository.gate" in sys.modules


def _job() -> TrialJob:
    return TrialJob(
        model="m",
        version=1,
        path="/m/1/model.onnx",
        folder="/m",
        config=config("").SerializeToString(),
        providers=("cpu",),
        thread_budget=2,
        default_max_batch_size=4,
        probe_s=0.0,
    )
