"""Checkpoints: saving, loading and errors of damaged or foreign folders."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from model import checkpoint, files
from model.checkpoint import (
    CARD,
    CONFIG,
    SUMS,
    WEIGHTS,
    Card,
    find,
    load,
    save,
    save_card,
)
from model.errors import CheckpointError
from tests.support.checkpoints import SAVED as NAME
from tests.support.checkpoints import flipped, provenance, refusal, reseal
from tests.support.models import CONFIGS, build

FILES = [CONFIG, WEIGHTS, CARD, SUMS]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_saved_model_loads_unchanged(name: str, tmp_path: Path) -> None:
    vae, card = build(name), Card(name=name, created="2024-01-01", evaluation={"free_energy": 1.5})
    save(tmp_path / "model", vae, card)
    back = load(tmp_path / "model")
    assert (back.vae.config, back.card, back.folder) == (vae.config, card, tmp_path / "model")
    x = torch.rand(3, *vae.config.data.shape, generator=torch.Generator().manual_seed(0))
    q, same = vae.encode(x), back.vae.encode(x)
    assert torch.equal(q.mean, same.mean) and torch.equal(q.scale, same.scale)
    assert torch.equal(vae.decode(q.mean).nlog_prob(x), back.vae.decode(q.mean).nlog_prob(x))
    assert not back.vae.training and not any(weight.requires_grad for weight in back.vae.parameters())


def test_the_digest_covers_configuration_and_weights(tmp_path: Path) -> None:
    def digest(vae_name: str, seed: int = 0, card: str = "a") -> str:
        save(tmp_path / "model", build(vae_name, seed), Card(name=card, created="2024-01-01"))
        return load(tmp_path / "model").digest

    first = digest(NAME)
    assert digest(NAME) == digest(NAME, card="b") == first
    assert len({first, digest(NAME, seed=1), digest("grey-mlp-bernoulli")}) == 3


def test_loading_draws_nothing_from_the_global_generator(folder: Path) -> None:
    before = torch.get_rng_state()
    load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_provenance_is_loaded_unchanged(folder: Path) -> None:
    training = provenance(settings={"epochs": 3}, held_out_scores={"free_energy": 3.25, "bits_per_dim": None})
    card = Card(name="x", created="2024-01-01", training=training)
    save_card(folder, card)
    assert load(folder).card == card


class TestDamage:
    @pytest.mark.parametrize("file", FILES)
    def test_a_missing_file_is_named(self, file: str, folder: Path) -> None:
        (folder / file).unlink()
        with pytest.raises(CheckpointError, match=file):
            load(folder)

    @pytest.mark.parametrize("file", FILES)
    def test_any_altered_byte_is_found(self, file: str, folder: Path) -> None:
        whole = (folder / file).read_bytes()
        for place in {0, len(whole) - 1, *np.random.default_rng(0).integers(0, len(whole), 60).tolist()}:
            (folder / file).write_bytes(flipped(whole, place))
            with pytest.raises(CheckpointError) as error:
                load(folder)
            assert file in refusal(error) and str(folder) in refusal(error)

    @pytest.mark.parametrize("file", FILES)
    def test_any_truncation_is_found(self, file: str, folder: Path) -> None:
        whole = (folder / file).read_bytes()
        for end in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
            (folder / file).write_bytes(whole[:end])
            with pytest.raises(CheckpointError):
                load(folder)

    def test_mixed_files_of_two_models_are_refused(self, folder: Path, saved: Callable[[str], Path]) -> None:
        shutil.copy(saved("grey-mlp-bernoulli") / CONFIG, folder / CONFIG)
        with pytest.raises(CheckpointError, match=CONFIG):
            load(folder)

    def test_a_folder_in_place_of_a_file_is_refused(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / WEIGHTS).mkdir()
        with pytest.raises(CheckpointError, match=WEIGHTS):
            load(folder)


def _without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in weights.items() if key != name}


FIRST = "encoder.layers.0.weight"
SPOILED: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "lacks one": (lambda w: _without(w, FIRST), f"lacks {FIRST}"),
    "has one more": (lambda w: w | {"spy": torch.zeros(1)}, "has unknown spy"),
    "renamed": (lambda w: _without(w, FIRST) | {"other": w[FIRST]}, f"lacks {FIRST} and has unknown other"),
    "shape": (lambda w: w | {FIRST: w[FIRST].T.contiguous()}, FIRST),
    "empty": (lambda w: w | {FIRST: torch.zeros(0)}, FIRST),
    "float64": (lambda w: w | {FIRST: w[FIRST].double()}, "float64"),
    "bfloat16": (lambda w: w | {FIRST: w[FIRST].bfloat16()}, "bfloat16"),
    "integers": (lambda w: w | {FIRST: w[FIRST].int()}, "int32"),
    "nan": (lambda w: w | {FIRST: w[FIRST].clone().fill_(float("nan"))}, "not finite"),
    "inf": (lambda w: w | {FIRST: torch.where(w[FIRST] == w[FIRST].max(), torch.inf, w[FIRST])}, "not finite"),
}


class TestStrangers:
    """Folders with valid checksums and invalid contents."""

    @pytest.mark.parametrize("how", SPOILED)
    def test_weights_that_do_not_match_the_configuration_are_refused(self, how: str, folder: Path) -> None:
        spoil, message = SPOILED[how]
        weights = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        reseal(folder, weights=safetensors.torch.save(spoil(weights)))
        with pytest.raises(CheckpointError) as error:
            load(folder)
        assert message in refusal(error) and WEIGHTS in refusal(error)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff" * 100,
            (2).to_bytes(8, "little") + b"{}",
            (60).to_bytes(8, "little") + b'{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'.ljust(60) + b"\0",
            (62).to_bytes(8, "little")
            + b'{"a":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}'.ljust(62)
            + b"\0",
            (60).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'.ljust(60),
        ],
    )
    def test_unreadable_weights_and_unknown_types_are_refused(self, data: bytes, folder: Path) -> None:
        reseal(folder, weights=data)
        with pytest.raises(CheckpointError, match=WEIGHTS):
            load(folder)

    @pytest.mark.parametrize("seed", range(3))
    def test_weights_altered_anywhere_load_or_are_refused(self, seed: int, folder: Path) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        header = 8 + int.from_bytes(whole[:8], "little")
        for place in np.random.default_rng(seed).integers(0, header, 60).tolist():
            reseal(folder, weights=flipped(whole, place))
            with pytest.raises(CheckpointError):
                load(folder)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"latent": 5}, "not of one model"),
            ({"latent": -1}, "latent"),
            ({"colour": "red"}, "colour"),
            ({"format": 3}, "format"),
            ({"latent": 1 << 16, "network": {"name": "mlp", "hidden": [1 << 16] * 16}}, "lacks"),
            ({"data": {"kind": "image", "height": 1024, "width": 1024, "channels": 3}}, "not of one model"),
            ({"network": {"name": "conv", "channels": [1 << 16] * 8, "blocks": [64] * 8}}, "lacks"),
        ],
    )
    def test_a_configuration_of_another_model_is_refused_without_its_memory(
        self, change: dict[str, Any], message: str, folder: Path
    ) -> None:
        reseal(folder, config=json.dumps(json.loads((folder / CONFIG).read_bytes()) | change).encode())
        # The largest of these would take petabytes, so an attempt at it would fail with another error.
        with pytest.raises(CheckpointError) as error:
            load(folder)
        assert message in refusal(error)

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"name": 3}', b"[" * 100_000])
    @pytest.mark.parametrize("which", ["config", "card"])
    def test_invalid_json_files_are_refused(self, which: str, data: bytes, folder: Path) -> None:
        reseal(folder, **{which: data})
        with pytest.raises(CheckpointError, match=f"{which}.json"):
            load(folder)


class TestSaving:
    def test_writes_four_files_and_leaves_no_temporary_ones(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            save(tmp_path / "deep" / "model", build(NAME, seed), Card(name="x", created="2024-01-01"))
        assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["model"]
        assert sorted(path.name for path in (tmp_path / "deep" / "model").iterdir()) == sorted(FILES)

    @pytest.mark.parametrize("file", FILES)
    def test_a_failed_save_keeps_the_old_model(self, file: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write, before = files.write_synced, load(folder).digest

        def full(path: Path, data: bytes) -> None:
            if path.name == file:
                raise OSError(28, "No space left on device")
            write(path, data)

        monkeypatch.setattr(files, "write_synced", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save(folder, build(NAME, seed=1), Card(name="new", created="2024-01-01"))
        assert load(folder).digest == before
        assert [path.name for path in folder.parent.iterdir()] == ["model"]

    def test_a_save_interrupted_between_its_renames_keeps_the_old_model(self, folder: Path) -> None:
        before = load(folder).digest
        shutil.copytree(folder, folder.with_name(".model.fresh"))
        folder.rename(folder.with_name(".model.previous"))
        assert load(folder).digest == before
        save(folder, build(NAME, seed=1), Card(name="new", created="2024-01-01"))
        assert load(folder).card.name == "new"
        assert [path.name for path in folder.parent.iterdir()] == ["model"]

    def test_leftovers_of_an_interrupted_save_are_ignored(self, folder: Path) -> None:
        folder.with_name(".model.fresh").mkdir()
        (folder.with_name(".model.fresh") / "half").touch()
        save(folder, build(NAME, seed=1), Card(name="new", created="2024-01-01"))
        assert load(folder).card.name == "new"

    def test_a_file_at_the_path_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(CheckpointError, match="cannot be saved"):
            save(tmp_path / "file" / "model", build(NAME), Card(name="x", created="2024-01-01"))

    def test_a_card_replaces_the_card_alone(self, folder: Path) -> None:
        before = load(folder)
        weights = (folder / WEIGHTS).read_bytes()
        save_card(folder, before.card.model_copy(update={"evaluation": {"free_energy": 2.5}}))
        after = load(folder)
        assert after.digest == before.digest
        assert after.card.evaluation == {"free_energy": 2.5}
        assert (folder / WEIGHTS).read_bytes() == weights

    def test_a_number_that_is_not_finite_is_saved_as_null(self, folder: Path) -> None:
        save_card(folder, Card(name="x", created="2024-01-01", evaluation={"free_energy": float("nan")}))
        assert load(folder).card.evaluation == {"free_energy": None}

    def test_a_new_card_does_not_seal_damaged_weights(self, folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(flipped((folder / WEIGHTS).read_bytes(), 5000))
        with pytest.raises(CheckpointError):
            save_card(folder, Card(name="x", created="2024-01-01"))
        with pytest.raises(CheckpointError):
            load(folder)

    def test_a_card_of_an_incomplete_model_is_refused(self, folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        with pytest.raises(CheckpointError, match=WEIGHTS):
            save_card(folder, Card(name="x", created="2024-01-01"))

    @pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
    def test_sha256sum_accepts_the_checksum_file(self, folder: Path) -> None:
        def check() -> int:
            command = ["sha256sum", "--strict", "-c", SUMS]
            return subprocess.run(command, check=False, cwd=folder, capture_output=True).returncode

        assert check() == 0
        (folder / WEIGHTS).write_bytes(flipped((folder / WEIGHTS).read_bytes(), 100))
        assert check() != 0


class TestFinding:
    def test_a_run_is_its_checkpoint(self, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        folder.rename(tmp_path / "run" / "checkpoint")
        assert find(tmp_path / "run") == tmp_path / "run" / "checkpoint"
        (tmp_path / "run" / "checkpoint").rename(tmp_path / "run" / ".checkpoint.previous")
        assert load(tmp_path / "run").card.name == NAME

    def test_the_working_folder_can_be_the_model_or_the_run(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(folder)
        assert load(Path()).card.name == NAME
        folder.rename(folder.with_name("checkpoint"))
        monkeypatch.chdir(folder.parent)
        assert load(Path()).card.name == NAME

    @pytest.mark.parametrize("nowhere", ["", "/", "..", "no/such/place"])
    def test_a_missing_model_is_refused_with_the_available_ones(
        self, nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "cwd" / "deeper").mkdir(parents=True)
        monkeypatch.chdir(tmp_path / "cwd" / "deeper")
        with pytest.raises(CheckpointError, match="no model is there"):
            load(Path(nowhere))

    def test_shipped_models_are_found_by_name(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoint, "PRETRAINED", folder.parent)
        assert load(Path("model")).card.name == NAME
        with pytest.raises(CheckpointError, match="a shipped model: model"):
            load(Path("modell"))


def test_a_checkpoint_can_be_put_on_a_device(folder: Path) -> None:
    assert {weight.device.type for weight in load(folder, "meta").vae.state_dict().values()} == {"meta"}
