"""Galleries: content, saving and loading, and errors of damaged files."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from model import checkpoint, gallery
from model.checkpoint import Checkpoint
from model.errors import CheckpointError, DataError
from model.gallery import from_bytes, make, rescore, to_bytes
from model.report.evaluation import evaluate
from model.scoring import batches
from model.scoring.calibration import Calibration, ScoringConfig
from model.vae import to_tensor
from tests.support.checkpoints import flipped, refusal
from tests.support.data import Array, Memory
from tests.support.models import CLASSES, CONFIGS, LEARNING, build, reference

Load = Callable[[str], Checkpoint]
NAME = "grey-mlp-discretized"
every = pytest.mark.parametrize("name", CONFIGS)


def gallery_of(checkpoint_: Checkpoint) -> gallery.Gallery:
    """Gallery of a checkpoint that has one."""
    assert checkpoint_.gallery is not None
    return checkpoint_.gallery


class TestMaking:
    @every
    def test_all_of_few_inputs_are_kept_as_they_are(self, name: str, shown: Load) -> None:
        result = gallery_of(shown(name))
        np.testing.assert_array_equal(result.inputs, reference(name))
        assert result.inputs.dtype == reference(name).dtype
        assert result.labels is not None
        np.testing.assert_array_equal(result.labels, np.arange(120) % 3)
        assert (result.label_names, result.learning) == (CLASSES, LEARNING)

    @every
    def test_latents_are_those_of_the_encoder(self, name: str, shown: Load) -> None:
        result, vae = gallery_of(shown(name)), build(name)
        q = vae.encode(to_tensor(result.inputs))
        np.testing.assert_allclose(result.mean, q.mean.numpy(), atol=1e-5)
        np.testing.assert_allclose(result.variance, q.scale.square().numpy(), rtol=1e-4)
        np.testing.assert_allclose(result.coordinates, result.projection(result.mean), atol=1e-5)
        np.testing.assert_allclose(result.projection.origin, result.mean.mean(axis=0), atol=1e-5)

    @every
    def test_scores_are_those_of_one_draw_with_seed_0(self, name: str, shown: Load, calibrated: Load) -> None:
        result = gallery_of(shown(name))
        (part,) = batches.score(build(name), [reference(name)], ScoringConfig(1, 0, 0), calibrated(name).calibration)
        discrete = CONFIGS[name].likelihood.name != "gaussian"
        for score in gallery.SCORES[: None if discrete else -2]:
            if score != "typicality":
                expected = getattr(part.scores.estimates, score)
                np.testing.assert_allclose(result.scores[score], expected, rtol=1e-4, atol=1e-3)
        assert part.scores.calibrated.typicality is not None
        np.testing.assert_allclose(result.scores["typicality"], part.scores.calibrated.typicality, rtol=1e-3, atol=1e-3)
        assert ("bits_per_dim" in result.scores) == discrete
        if discrete:
            bits = result.scores["free_energy"] / (CONFIGS[name].data.dims * math.log(2))
            np.testing.assert_allclose(result.scores["bits_per_dim"], bits, rtol=1e-5)
        np.testing.assert_allclose(
            result.scores["free_energy"], result.scores["distortion"] + result.scores["rate"], rtol=1e-4
        )

    @every
    def test_figures_are_those_of_the_held_out_report(self, name: str, shown: Load) -> None:
        result, report = gallery_of(shown(name)), evaluate(build(name), Memory(reference(name)), draws=1).report
        assert result.active_units == report.active_units
        by_rate = sorted(result.kl_to_normal.tolist(), reverse=True)
        np.testing.assert_allclose(by_rate, report.kl_to_normal, rtol=1e-4)
        assert result.counts.sum() == report.samples
        assert (len(result.edges), len(result.counts)) == (61, 60)
        ends = [report.free_energy_percentiles[p] for p in ("0", "100")]
        np.testing.assert_allclose(result.edges[[0, -1]], ends, rtol=1e-6)

    def test_a_gallery_of_many_inputs_keeps_evenly_spaced_ones_and_counts_all(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gallery, "MAX_INPUTS", 30)
        samples, done = reference(NAME, 300), list[int]()
        result = make(build(NAME), samples, labels=np.arange(300), on_sample=done.append)
        np.testing.assert_array_equal(result.inputs, samples[::10])
        assert result.labels is not None and result.labels.tolist() == list(range(0, 300, 10))
        assert result.counts.sum() == done[-1] == 300
        assert result.label_names is None
        assert "typicality" not in result.scores

    @pytest.mark.parametrize(("size", "number"), [(784, 2000), (1 << 14, 512), (1 << 20, 24), (3 << 20, 24)])
    def test_the_number_of_inputs_depends_on_their_size(self, size: int, number: int) -> None:
        assert len(gallery.evenly_spaced(5000, size)) == number
        assert gallery.evenly_spaced(7, size).tolist() == list(range(7))

    def test_equal_free_energies_have_a_histogram(self) -> None:
        edges, counts = gallery.histogram(np.full(9, 1e9))
        assert (np.diff(edges) > 0).all() and counts.sum() == 9

    def test_labels_beyond_their_names_have_none(self) -> None:
        assert make(build(NAME), reference(NAME, 30), labels=np.arange(30), label_names=CLASSES).label_names is None

    def test_no_inputs_or_extreme_inputs_are_refused(self) -> None:
        with pytest.raises(DataError, match="no samples"):
            make(build(NAME), reference(NAME, 1)[:0])
        table = "table-mlp-gaussian"
        with pytest.raises(DataError, match="not finite"):
            make(build(table), np.full((30, 3), 1e38, np.float32))

    def test_another_calibration_changes_typicality_alone(self, shown: Load) -> None:
        result, vae = gallery_of(shown(NAME)), build(NAME)
        density = batches.latent_density(vae, reference(NAME, 300, seed=5))
        other = batches.calibrate(
            vae, reference(NAME, 120, seed=6), [gallery.GALLERY_SCORING], calibration=Calibration(density, {})
        )
        judged = rescore(result, vae, other)
        (part,) = batches.score(vae, [result.inputs], gallery.GALLERY_SCORING, other)
        assert part.scores.calibrated.typicality is not None
        np.testing.assert_allclose(judged.scores["typicality"], part.scores.calibrated.typicality, rtol=1e-3, atol=1e-3)
        assert not np.allclose(judged.scores["typicality"], result.scores["typicality"])
        same = {**judged.scores, "typicality": result.scores["typicality"]}
        assert to_bytes(replace(judged, scores=same)) == to_bytes(result)
        assert "typicality" not in rescore(result, vae, Calibration(None, {})).scores


def altered(data: bytes, words: dict[str, Any] | None = None, **arrays: Array | None) -> bytes:
    """Bytes of a gallery with other arrays or header fields."""
    result = {**safetensors.numpy.load(data), **{key.replace("__", "."): value for key, value in arrays.items()}}
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    header_fields = json.loads(header["__metadata__"]["gallery"]) | (words or {})
    plain = {key: value for key, value in result.items() if value is not None}
    return safetensors.numpy.save(plain, {"gallery": json.dumps(header_fields)})


NAN = np.full(120, np.nan, np.float32)
SPOILED: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({"inputs": None}, "inputs is missing"),
    "empty inputs": ({"inputs": np.zeros((0, 1, 8, 8), np.uint8)}, "inputs is missing or empty"),
    "inputs of another size": ({"inputs": np.zeros((120, 1, 9, 9), np.uint8)}, "inputs is missing or not uint8"),
    "integers": ({"inputs": np.zeros((120, 1, 8, 8), np.int32)}, "inputs is missing or not float32"),
    "pixels too bright": ({"inputs": np.full((120, 1, 8, 8), 1.5, np.float32)}, "not from 0 to 1"),
    "another latent": ({"mean": np.zeros((120, 5), np.float32)}, "mean is missing or not float32 of shape"),
    "no variance": ({"variance": np.zeros((120, 4), np.float32)}, "variance is not positive"),
    "fewer scores": ({"scores__rate": np.zeros(3, np.float32)}, "scores.rate"),
    "no score": ({"scores__rate": None}, "scores.rate is missing"),
    "doubles": ({"scores__rate": np.zeros(120)}, "scores.rate"),
    "not finite": ({"scores__rate": NAN}, "scores.rate holds what is not finite"),
    "an unknown score": ({"scores__beauty": NAN}, "scores.beauty is unknown"),
    "falling edges": ({"edges": np.zeros(61)}, "not those of a histogram"),
    "negative counts": ({"counts": np.full(60, -1)}, "not those of a histogram"),
    "no bins": ({"counts": None}, "counts is missing"),
    "one label": ({"labels": np.zeros(1, np.int64)}, "labels"),
    "a label without a name": ({"labels": np.full(120, 7)}, "label_names"),
    "names without labels": ({"labels": None}, "label_names"),
    "many active units": ({"words": {"active_units": 5}}, "active_units is 5 of 4"),
    "half an epoch": ({"words": {"learning": [{"epoch": 1}]}}, "learning.0.free_energy"),
    "another version": ({"words": {"format": 2}}, "format"),
    "more to say": ({"words": {"script": "alert()"}}, "script"),
}


class TestSaving:
    def test_the_divergences_may_have_their_former_name(self, shown: Load) -> None:
        result = gallery_of(shown(NAME))
        former = altered(to_bytes(result), kl_to_normal=None, rate_per_dimension=result.kl_to_normal)
        assert to_bytes(from_bytes(former, CONFIGS[NAME])) == to_bytes(result)

    @every
    def test_a_saved_gallery_loads_unchanged(self, name: str, shown: Load) -> None:
        result = gallery_of(shown(name))
        data = to_bytes(result)
        back = from_bytes(data, CONFIGS[name])
        assert to_bytes(back) == data
        assert len(back) == len(result) == 120
        assert back.learning == result.learning

    def test_needs_neither_labels_nor_names_nor_epochs(self) -> None:
        result = make(build(NAME), reference(NAME, 30))
        back = from_bytes(to_bytes(result), CONFIGS[NAME])
        assert (back.labels, back.label_names, back.learning) == (None, None, ())

    @pytest.mark.parametrize("how", SPOILED)
    def test_a_damaged_gallery_is_refused_with_the_reason(self, how: str, shown: Load, tmp_path: Path) -> None:
        changes, message = SPOILED[how]
        data = altered(to_bytes(gallery_of(shown(NAME))), **changes)
        with pytest.raises(CheckpointError) as error:
            checkpoint.parse_gallery(tmp_path / "gallery.safetensors", data, CONFIGS[NAME])
        assert message in refusal(error)
        assert "make a new one with vae gallery" in refusal(error)

    def test_altered_bytes_raise_only_checkpoint_errors(self, shown: Load) -> None:
        whole = to_bytes(gallery_of(shown(NAME)))
        header = 8 + int.from_bytes(whole[:8], "little")
        spoiled = [whole[:end] for end in (0, 1, 7, 8, 9, header, len(whole) - 1)]
        spoiled += [to_bytes(gallery_of(shown("grey-conv-gaussian")))[:-1], b"\xff" * 100]
        spoiled += [flipped(whole, place) for place in range(0, header, 7)]
        refused = 0
        for data in spoiled:
            try:
                checkpoint.parse_gallery(Path("x"), data, CONFIGS[NAME])
            except CheckpointError:
                refused += 1
        assert refused > len(spoiled) / 2

    def test_stays_in_memory_when_its_file_is_replaced(self, shown: Load, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(shown(NAME).folder, tmp_path / "model"))
        loaded = checkpoint.load(folder)
        before = to_bytes(gallery_of(loaded))
        (folder / checkpoint.GALLERY).write_bytes(b"another")
        assert to_bytes(gallery_of(loaded)) == before
