"""Calibration and gallery of a checkpoint: saving, loading and damaged files."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model import checkpoint, files
from model.checkpoint import CALIBRATION, CARD, CONFIG, GALLERY, SUMS, WEIGHTS, Card, load, save, save_card
from model.errors import CheckpointError
from model.scoring.calibration import Calibration, to_bytes
from tests.support.checkpoints import SAVED, flipped, refusal, reseal
from tests.support.models import CONFIGS, build


@pytest.fixture
def judging(calibrated: Callable[[str], checkpoint.Checkpoint], tmp_path: Path) -> Path:
    """A copy of a saved model with a calibration."""
    shutil.copytree(calibrated(SAVED).folder, tmp_path / "judging")
    return tmp_path / "judging"


class TestCalibration:
    @pytest.mark.parametrize("name", CONFIGS)
    def test_is_loaded_unchanged(
        self, name: str, calibrated: Callable[[str], checkpoint.Checkpoint], tmp_path: Path
    ) -> None:
        calibration = calibrated(name).calibration
        assert calibration is not None
        save(tmp_path / "model", build(name), Card(name=name, created="2024-01-01"))
        assert load(tmp_path / "model").calibration is None
        checkpoint.save_calibration(tmp_path / "model", calibration)
        back = load(tmp_path / "model").calibration
        assert back is not None and to_bytes(back) == to_bytes(calibration)
        files = [path.name for path in (tmp_path / "model").iterdir()]
        assert sorted(files) == sorted([CONFIG, WEIGHTS, CARD, SUMS, CALIBRATION])

    def test_changes_the_digest_unlike_the_card(self, judging: Path, folder: Path) -> None:
        plain, first = load(folder), load(judging)
        assert first.calibration is not None
        save_card(judging, Card(name="other", created="2025-01-01"))
        assert load(judging).digest == first.digest != plain.digest
        assert load(judging).calibration is not None
        checkpoint.save_calibration(judging, Calibration(None, {}))
        assert len({plain.digest, first.digest, load(judging).digest}) == 3
        assert load(judging).card.anomaly_score == "free_energy"
        checkpoint.save_calibration(judging, first.calibration)
        assert load(judging).digest == first.digest
        # Typicality tells outliers best, but needs a density to be calibrated with.
        assert load(judging).card.anomaly_score == "typicality"
        save(judging, plain.vae, plain.card)
        assert load(judging).digest == plain.digest and load(judging).calibration is None

    def test_a_missing_altered_or_truncated_file_is_named(self, judging: Path) -> None:
        path = judging / CALIBRATION
        whole = path.read_bytes()
        places = {0, len(whole) - 1, *np.random.default_rng(0).integers(0, len(whole), 30).tolist()}
        ends = (0, 7, 8, 9, len(whole) // 2, len(whole) - 1)
        for data in (*(flipped(whole, place) for place in places), *(whole[:end] for end in ends), None):
            path.unlink() if data is None else path.write_bytes(data)
            with pytest.raises(CheckpointError) as error:
                load(judging)
            assert CALIBRATION in refusal(error) and str(judging) in refusal(error)

    @pytest.mark.parametrize("data", [b"", b"\xff" * 100, "grey-mlp-bernoulli", "rgb-conv-discretized"])
    def test_an_invalid_file_or_another_latent_size_is_refused(
        self, data: bytes | str, judging: Path, calibrated: Callable[[str], checkpoint.Checkpoint]
    ) -> None:
        other = data if isinstance(data, bytes) else (calibrated(data).folder / CALIBRATION).read_bytes()
        reseal(judging, calibration=other)
        with pytest.raises(CheckpointError, match=f"{CALIBRATION}.*make a new one with vae calibrate"):
            load(judging)

    def test_a_failed_save_keeps_the_old_calibration(self, judging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = load(judging).digest
        monkeypatch.setattr(files, "write_synced", lambda path, data: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(CheckpointError, match="full"):
            checkpoint.save_calibration(judging, Calibration(None, {}))
        assert load(judging).digest == before

    def test_does_not_seal_damaged_weights(self, judging: Path) -> None:
        (judging / WEIGHTS).write_bytes(flipped((judging / WEIGHTS).read_bytes(), 5000))
        with pytest.raises(CheckpointError, match=WEIGHTS):
            checkpoint.save_calibration(judging, Calibration(None, {}))


class TestGallery:
    @pytest.fixture
    def looked_at(self, shown: Callable[[str], checkpoint.Checkpoint], tmp_path: Path) -> Path:
        """A copy of a saved model with a calibration and a gallery."""
        shutil.copytree(shown(SAVED).folder, tmp_path / "shown")
        return tmp_path / "shown"

    def test_is_sealed_but_not_in_the_digest(self, looked_at: Path, judging: Path) -> None:
        assert load(looked_at).digest == load(judging).digest
        assert f"  {GALLERY}\n" in (looked_at / SUMS).read_text()
        assert load(looked_at, shown=False).gallery is None

    def test_a_missing_altered_or_truncated_file_is_named(self, looked_at: Path) -> None:
        path = looked_at / GALLERY
        whole = path.read_bytes()
        for data in (flipped(whole, 0), flipped(whole, len(whole) - 1), whole[:-1], b"", None):
            path.unlink() if data is None else path.write_bytes(data)
            with pytest.raises(CheckpointError) as error:
                load(looked_at)
            assert GALLERY in refusal(error) and str(looked_at) in refusal(error)

    def test_of_another_model_is_neither_saved_nor_loaded(
        self, looked_at: Path, shown: Callable[[str], checkpoint.Checkpoint]
    ) -> None:
        other = shown("grey-mlp-bernoulli")
        assert other.gallery is not None
        with pytest.raises(CheckpointError, match="make a new one with vae gallery"):
            checkpoint.save_gallery(looked_at, other.gallery)
        load(looked_at)
        reseal(looked_at, gallery=(other.folder / GALLERY).read_bytes())
        with pytest.raises(CheckpointError, match=f"{GALLERY}: not a gallery of this model.*vae gallery"):
            load(looked_at)
        # Everything else can be used, and a new one takes its place.
        assert load(looked_at, shown=False).calibration is not None
        checkpoint.save_gallery(looked_at, None)
        assert load(looked_at).gallery is None
        assert not (looked_at / GALLERY).exists()

    def test_survives_a_new_card_or_calibration_but_not_new_weights(self, looked_at: Path) -> None:
        whole = (looked_at / GALLERY).read_bytes()
        save_card(looked_at, Card(name="other", created="2025-01-01"))
        checkpoint.save_calibration(looked_at, Calibration(None, {}))
        assert (looked_at / GALLERY).read_bytes() == whole
        loaded = load(looked_at)
        assert loaded.gallery is not None
        save(looked_at, loaded.vae, loaded.card)
        assert load(looked_at).gallery is None
