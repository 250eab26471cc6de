"""Runs: a training that is killed at any moment resumes and ends with an identical model."""

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from model import files
from model.checkpoint import Card, load
from model.errors import CheckpointError, TrainingError
from model.training.config import TrainingConfig
from model.training.run import Run
from model.training.splits import Split
from model.vae import to_tensor
from tests.support.checkpoints import flipped, refusal
from tests.support.data import Memory, rows, saved_array, stripes

EPOCHS = 4


class Killed(BaseException):
    """Simulates the death of the process; nothing in the model may catch it."""


def plan(kind: str = "table", **settings: Any) -> tuple[TrainingConfig, Split]:
    """A configuration that learns so slowly that every epoch is the best so far and writes a checkpoint."""
    data = Memory(rows(60)) if kind == "table" else Memory(stripes(40, (3, 9, 10)))
    network = {"hidden": (8,)} if kind == "table" else {"name": "conv", "channels": (4, 4), "blocks": (1, 1)}
    chosen = {"epochs": EPOCHS, "batch_size": 4, "learning_rate": 1e-3, "average": 0.5} | settings
    return TrainingConfig.resolve(data, network=network, likelihood={}, latent=2, settings=chosen)


def train(folder: Path, kind: str = "table", until: int = EPOCHS) -> Run:
    """Train or resume up to an epoch, as `vae train` does."""
    config, split = plan(kind)
    run = Run.open(folder, config)
    for record in run.training.epochs(split.train, split.validation):
        run.add(record, Card(name="test", created="2024-01-01"))
        if record.epoch == until:
            break
    return run


def outcome(folder: Path) -> dict[str, Any]:
    """All files of a run, without durations."""
    with safetensors.safe_open(folder / "state.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name).numpy().tobytes() for name in file.keys()}  # noqa: SIM118
    with (folder / "metrics.csv").open() as table:
        metrics = [{k: v for k, v in row.items() if "second" not in k} for row in csv.DictReader(table)]
    best = load(folder)
    return {"state": state, "metrics": metrics, "best": best.digest}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folders = {kind: tmp_path_factory.mktemp("uninterrupted") / "run" for kind in ("table", "pictures")}
    for kind, folder in folders.items():
        train(folder, kind)
    return {kind: outcome(folder) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", ["table", "pictures"])
@pytest.mark.parametrize("stops", [(1,), (3,), (1, 2, 3)])
def test_a_run_stopped_after_any_epoch_ends_like_an_uninterrupted_one(
    kind: str, stops: tuple[int, ...], uninterrupted: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    for stop in (*stops, EPOCHS):
        assert train(tmp_path / "run", kind, until=stop).training.epoch == stop
    assert outcome(tmp_path / "run") == uninterrupted[kind]


@pytest.mark.parametrize("epoch", [1, 2, EPOCHS])
@pytest.mark.parametrize("file", ["config.json", "SHA256SUMS", ".state.safetensors.fresh", ".metrics.csv.fresh"])
def test_a_run_killed_while_writing_ends_like_an_uninterrupted_one(
    epoch: int, file: str, uninterrupted: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = files.write_synced
    seen = 0

    def dying(path: Path, data: bytes) -> None:
        nonlocal seen
        seen += path.name == file
        if path.name == file and seen == epoch:
            write(path, data[: len(data) // 2])
            raise Killed
        write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_synced", dying)
        with pytest.raises(Killed):
            train(tmp_path / "run")
    assert train(tmp_path / "run").training.epoch == EPOCHS
    assert outcome(tmp_path / "run") == uninterrupted["table"]


def test_a_run_killed_between_the_renames_of_its_checkpoint_still_holds_one(
    uninterrupted: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(folder, until=2)
    (folder / "checkpoint").rename(folder / ".checkpoint.previous")
    load(folder)
    train(folder)
    assert outcome(folder) == uninterrupted["table"]
    assert not (folder / ".checkpoint.previous").exists()


def test_a_full_disk_is_reported_and_the_run_resumes_later(
    uninterrupted: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "run", until=2)
    write = files.write_synced

    for full in ("config.json", ".state.safetensors.fresh", ".metrics.csv.fresh"):

        def writing(path: Path, data: bytes, full: str = full) -> None:
            if path.name == full:
                raise OSError(28, "No space left on device")
            write(path, data)

        with monkeypatch.context() as patched:
            patched.setattr(files, "write_synced", writing)
            with pytest.raises(CheckpointError, match="No space left"):
                train(tmp_path / "run")
    assert train(tmp_path / "run").training.epoch == EPOCHS
    assert outcome(tmp_path / "run") == uninterrupted["table"]


def test_a_finished_run_opens_finished(tmp_path: Path) -> None:
    train(tmp_path / "run")
    before = (tmp_path / "run" / "state.safetensors").read_bytes()
    again = train(tmp_path / "run")
    assert [record.epoch for record in again.records] == [1, 2, 3, 4]
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == before


def test_the_checkpoint_is_the_epoch_with_the_best_validation_score(tmp_path: Path) -> None:
    config, split = plan(learning_rate=0.3, average=0.0)
    run = Run.open(tmp_path / "run", config)
    assert run.best is None
    for record in run.training.epochs(split.train, split.validation):
        run.add(record, Card(name=str(record.epoch), created="2024-01-01"))
        assert run.best is not None
        assert run.best.free_energy == min(r.free_energy for r in run.records)
        assert load(tmp_path / "run").card.name == str(run.best.epoch)


def test_the_checkpoint_holds_the_averaged_weights(tmp_path: Path) -> None:
    run = train(tmp_path / "run", until=1)
    x = to_tensor(rows(5))
    assert torch.equal(load(tmp_path / "run").vae.encode(x).mean, run.training.average.encode(x).mean)
    assert not torch.equal(load(tmp_path / "run").vae.encode(x).mean, run.training.vae.encode(x).mean)


def test_the_table_has_one_row_per_epoch(tmp_path: Path) -> None:
    run = train(tmp_path / "run")
    with (tmp_path / "run" / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in table] == [1, 2, 3, 4]
    assert [float(row["free_energy"]) for row in table] == [record.free_energy for record in run.records]


class TestRefusals:
    @pytest.mark.parametrize(("key", "value"), [("seed", 3), ("learning_rate", 0.5), ("epochs", 9), ("held_out", 7)])
    def test_changed_settings_are_named_with_both_values(self, key: str, value: Any, tmp_path: Path) -> None:
        train(tmp_path / "run", until=1)
        old = plan()[0].settings.model_dump()[key]
        with pytest.raises(TrainingError) as error:
            Run.open(tmp_path / "run", plan(**{key: value})[0])
        message = refusal(error)
        assert f"settings.{key} is {old!r} there and {value!r} here" in message and "--out" in message

    def test_changed_data_is_refused(self, tmp_path: Path) -> None:
        train(tmp_path / "run", until=1)
        with pytest.raises(TrainingError, match="dataset_sha256"):
            Run.open(tmp_path / "run", plan()[0].model_copy(update={"dataset_sha256": "0" * 64}))
        with pytest.raises(TrainingError, match="holds a run of other data or settings"):
            Run.open(tmp_path / "run", plan("pictures")[0])

    def test_a_folder_that_is_not_a_run_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(TrainingError, match=r"not empty and not a run.*--out"):
            Run.open(tmp_path, plan()[0])

    def test_a_file_in_place_of_a_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "run").touch()
        with pytest.raises(TrainingError, match="--out"):
            Run.open(tmp_path / "run", plan()[0])

    def test_an_empty_folder_starts_a_new_run(self, tmp_path: Path) -> None:
        assert Run.open(tmp_path, plan()[0]).records == []

    @pytest.mark.parametrize("end", [0, 4, 100, -1])
    def test_a_truncated_state_is_refused_with_the_remedy(self, end: int, tmp_path: Path) -> None:
        train(tmp_path / "run", until=1)
        path = tmp_path / "run" / "state.safetensors"
        path.write_bytes(path.read_bytes()[:end])
        with pytest.raises(TrainingError, match=r"state\.safetensors: is damaged.*--out"):
            Run.open(tmp_path / "run", plan()[0])

    def test_any_altered_byte_of_the_state_is_refused(self, tmp_path: Path) -> None:
        train(tmp_path / "run", until=1)
        path = tmp_path / "run" / "state.safetensors"
        whole = path.read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        generator = np.random.default_rng(0)
        for position in {*range(40), *generator.integers(0, header, 60), *generator.integers(header, len(whole), 20)}:
            path.write_bytes(flipped(whole, int(position)))
            with pytest.raises(TrainingError):
                Run.open(tmp_path / "run", plan()[0])

    @pytest.mark.parametrize(
        "lost", ["progress", "weights.encoder.layers.0.weight", "optimizer.encoder.layers.0.weight.exp_avg"]
    )
    def test_a_state_with_a_missing_tensor_is_refused(self, lost: str, tmp_path: Path) -> None:
        train(tmp_path / "run", until=1)
        path = tmp_path / "run" / "state.safetensors"
        with safetensors.safe_open(path, framework="pt") as file:
            metadata, state = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        del state[lost]
        path.write_bytes(safetensors.torch.save(state, metadata))
        with pytest.raises(TrainingError, match="damaged"):
            Run.open(tmp_path / "run", plan()[0])


class TestProcess:
    """The command, killed by SIGKILL."""

    @staticmethod
    def start(folder: Path, name: str) -> "subprocess.Popen[bytes]":
        arguments = ["train", "data.npy", "--out", name, "--epochs", "6", "--batch-size", "16", "--hidden", "64"]
        # Plots are off: they take longer than the training and are not compared.
        main = "import sys; sys.modules['matplotlib'] = None; from app.cli.main import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", main, *arguments, "--threads", "1", "--device", "cpu"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(files.__file__).parents[1]), *sys.path])},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def test_a_killed_and_repeated_command_ends_like_an_uninterrupted_one(self, tmp_path: Path) -> None:
        saved_array(tmp_path / "data.npy", stripes(2000)[:, 0])
        whole, broken = self.start(tmp_path, "whole"), self.start(tmp_path, "broken")
        state = tmp_path / "broken" / "state.safetensors"
        while not state.exists():
            try:
                output, _ = broken.communicate(timeout=0.01)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"the command ended before its first epoch: {output.decode()}")
        broken.send_signal(signal.SIGKILL)
        assert broken.wait() == -signal.SIGKILL
        broken.communicate()
        shutil.copytree(tmp_path / "broken", tmp_path / "at death")
        output, _ = whole.communicate()
        assert whole.returncode == 0, output.decode()
        again = self.start(tmp_path, "broken")
        output, _ = again.communicate()
        assert again.returncode == 0, output.decode()
        assert b"Resuming broken after epoch" in output
        with safetensors.safe_open(tmp_path / "at death" / "state.safetensors", framework="pt") as file:
            assert file.get_tensor("progress")[0] < 6
        assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")
