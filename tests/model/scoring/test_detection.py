"""Area under the ROC curve, and the sets of outliers."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from model.config import ImageData
from model.datasets import Dataset
from model.scoring.batches import calibrate, latent_density, score
from model.scoring.calibration import Calibration, ScoringConfig
from model.scoring.detection import SCORES, Detection, auroc, detect, handwritten_digits, outlier_sets
from model.vae import VAE, to_tensor
from tests.support.data import Array, Memory, rows, stripes
from tests.support.models import CONFIGS, GREY, RGB, TABLE, build

PICTURES = ["vertical flips", "horizontal flips", "digits", "noise", "constants"]


def sets(data: ImageData, dataset: Dataset, *against: Dataset, max_inputs: int = 400) -> dict[str, Array]:
    return {name: np.concatenate(list(batches)) for name, batches in outlier_sets(data, dataset, against, max_inputs)}


class TestAuroc:
    @pytest.mark.parametrize("values", [2, 5, 1 << 30])
    @pytest.mark.parametrize("counts", [(1, 1), (7, 3), (40, 25)])
    def test_counts_pairs_and_ties_by_half(self, counts: tuple[int, int], values: int) -> None:
        draw = np.random.default_rng(values)
        inliers, outliers = (draw.integers(0, values, count).astype(float) for count in counts)
        won = [float(b > a) + 0.5 * float(b == a) for a in inliers for b in outliers]
        assert auroc(inliers, outliers) == pytest.approx(np.mean(won), rel=1e-12)

    @pytest.mark.parametrize("values", [3, 1 << 30])
    def test_is_that_of_scikit_learn(self, values: int) -> None:
        draw = np.random.default_rng(values)
        inliers = draw.integers(0, values, 300).astype(float)
        outliers = draw.integers(values // 3, values, 200).astype(float)
        labels = np.repeat([0, 1], [300, 200])
        expected = roc_auc_score(labels, np.concatenate([inliers, outliers]))
        assert auroc(inliers, outliers) == pytest.approx(expected, rel=1e-12)

    def test_of_separated_and_of_equal_scores(self) -> None:
        low, high = np.arange(5.0), np.arange(10.0, 14.0)
        assert (auroc(low, high), auroc(high, low), auroc(low, low), auroc(np.ones(3), np.ones(4))) == (1, 0, 0.5, 0.5)


@pytest.mark.parametrize("data", [GREY, RGB], ids=["grey", "rgb"])
class TestPictures:
    def test_have_the_shape_of_the_data(self, data: ImageData) -> None:
        result = sets(data, Memory(stripes(300, data.shape)))
        assert list(result) == PICTURES
        for name, outliers in result.items():
            assert outliers.shape[1:] == data.shape, name
            assert outliers.dtype == np.uint8, name
        counts = {name: len(outliers) for name, outliers in result.items()}
        assert counts == dict(zip(PICTURES, (300, 300, 400, 400, 256), strict=True))

    def test_flips_reverse_the_named_axis(self, data: ImageData) -> None:
        own = np.random.default_rng(0).integers(0, 256, (270, *data.shape), np.uint8)
        result = sets(data, Memory(own))
        for i in (0, 200, 269):
            for channel in range(data.channels):
                assert np.array_equal(result["vertical flips"][i, channel], np.flipud(own[i, channel]))
                assert np.array_equal(result["horizontal flips"][i, channel], np.fliplr(own[i, channel]))

    def test_noise_covers_all_bytes_and_is_reproducible(self, data: ImageData) -> None:
        first, same = (sets(data, Memory(stripes(10, data.shape)))["noise"] for _ in range(2))
        assert np.array_equal(first, same)
        assert len(np.unique(first)) == 256
        assert first.mean() == pytest.approx(127.5, abs=2)

    def test_constants_are_even_in_every_pixel_and_none_twice(self, data: ImageData) -> None:
        constants = sets(data, Memory(stripes(10, data.shape)))["constants"]
        assert (constants == constants[:, :1, :1, :1]).all()
        assert sorted(constants[:, 0, 0, 0].tolist()) == list(range(256))

    def test_digits_are_grey_and_bright_on_dark(self, data: ImageData) -> None:
        digits = handwritten_digits(data)
        assert digits is not None and digits.shape == (1797, *data.shape)
        assert (digits == digits[:, :1]).all()
        assert (digits.min(), digits.max()) == (0, 255)
        assert digits.std(axis=0).min() >= 0 and digits.mean() < 128

    @pytest.mark.parametrize("max_inputs", [1, 7, 256, 257, 5000])
    def test_no_set_is_larger_than_the_limit(self, max_inputs: int, data: ImageData) -> None:
        other = Memory(stripes(400, data.shape, seed=1), source="other")
        result = sets(data, Memory(stripes(300, data.shape)), other, max_inputs=max_inputs)
        counts = {name: len(outliers) for name, outliers in result.items()}
        assert max(counts.values()) <= max_inputs, counts
        assert min(counts.values()) >= min(max_inputs, 256), counts

    def test_sets_of_the_user_are_named_by_their_source(self, data: ImageData) -> None:
        others = [Memory(stripes(count, data.shape, seed=count), source=f"set {count}") for count in (5, 300)]
        result = sets(data, Memory(stripes(10, data.shape)), *others, max_inputs=290)
        assert list(result) == [*PICTURES, "set 5", "set 300"]
        assert np.array_equal(result["set 5"], others[0].samples)
        assert np.array_equal(result["set 300"], others[1].samples[:290])

    def test_without_scikit_learn_there_are_no_digits(self, data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
        assert handwritten_digits(data) is None
        assert "digits" not in sets(data, Memory(stripes(10, data.shape)))


def test_float_images_have_outliers() -> None:
    own = stripes(20).astype(np.float32) / 255
    result = sets(GREY, Memory(own))
    assert np.array_equal(own[:, :, ::-1], result["vertical flips"])
    assert all(to_tensor(outliers).min() >= 0 and to_tensor(outliers).max() <= 1 for outliers in result.values())


class TestRows:
    @pytest.mark.parametrize("max_inputs", [1, 40, 300, 5000])
    def test_are_as_many_as_the_data_up_to_the_limit(self, max_inputs: int) -> None:
        other = Memory(rows(50, seed=1), source="other.csv")
        result = {
            name: np.concatenate(list(batches))
            for name, batches in outlier_sets(TABLE, Memory(rows(400)), [other], max_inputs)
        }
        counts = {name: len(outliers) for name, outliers in result.items()}
        few = min(max_inputs, 400)
        assert counts == {"shuffled columns": few, "noise": few, "other.csv": min(max_inputs, 50)}
        assert all(outliers.shape[1:] == (3,) and outliers.dtype == np.float32 for outliers in result.values())

    def test_shuffled_columns_keep_their_values_and_lose_their_correlation(self) -> None:
        own = rows(400)
        (_, shuffled), (_, noise) = (
            (name, np.concatenate(list(batches))) for name, batches in outlier_sets(TABLE, Memory(own), [], 400)
        )
        assert np.array_equal(np.sort(shuffled, axis=0), np.sort(own, axis=0))
        tied, loose = (np.abs(np.corrcoef(some[:, 0], some[:, 1])).min() for some in (own, shuffled))
        assert tied > 0.8
        assert loose < 0.2
        assert (noise >= own.min(axis=0)).all() and (noise <= own.max(axis=0)).all()
        # Even over its range, where the data is not.
        assert np.allclose(noise.std(axis=0), np.ptp(own, axis=0) / np.sqrt(12), rtol=0.1)
        assert np.array_equal(own, rows(400))


class TestDetect:
    def test_compares_every_available_score(self, trained: VAE) -> None:
        density = Calibration(latent_density(trained, stripes(300)), {})
        scoring = ScoringConfig(3, 2, 0)
        calibration = calibrate(trained, stripes(120, seed=1), [scoring], calibration=density)
        other = Memory(stripes(30, seed=5), source="more stripes")
        result = detect(trained, Memory(stripes(100, seed=2)), [other], scoring, calibration, max_inputs=80)
        assert (result.samples, result.refine, result.seed, result.inliers) == (*scoring, 80)
        assert list(result.auroc) == list(result.outliers) == [*PICTURES, "more stripes"]
        assert result.outliers["more stripes"] == 30
        for areas in result.auroc.values():
            assert set(areas) == set(SCORES)
            assert all(0 <= area <= 1 for area in areas.values())
        assert result.auroc["noise"]["typicality"] > 0.95
        assert 0.3 < result.auroc["more stripes"]["typicality"] < 0.7
        assert result.auroc["noise"]["free_energy_two_sided"] > 0.95

    def test_omits_unavailable_scores(self) -> None:
        vae = build("table-mlp-gaussian")
        result = detect(vae, Memory(rows(40)), [], ScoringConfig(2, 0, 0), None, max_inputs=30)
        absent = {"regret", "typicality", "free_energy_two_sided"}
        assert all(set(areas) == set(SCORES) - absent for areas in result.auroc.values())

    def test_the_area_of_a_set_against_itself_is_one_half(self) -> None:
        vae, own = build("table-mlp-gaussian"), Memory(rows(60))
        result = detect(vae, own, [own], ScoringConfig(3, 0, 0), None, max_inputs=60)
        assert set(result.auroc["memory"].values()) == {0.5}

    def test_areas_equal_those_of_the_scores(self) -> None:
        vae, own, other = build("table-mlp-gaussian"), Memory(rows(60)), Memory(rows(50, seed=1) * 1.2, source="other")
        result = detect(vae, own, [other], ScoringConfig(3, 0, 0), None, max_inputs=100)
        inliers, outliers = (
            next(score(vae, data.batches(100), ScoringConfig(3, 0, 0))).scores.estimates for data in (own, other)
        )
        for name, area in result.auroc["other"].items():
            assert area == pytest.approx(auroc(getattr(inliers, name), getattr(outliers, name))), name

    def test_is_reproducible(self) -> None:
        vae, data = build(next(iter(CONFIGS))), Memory(stripes(20))
        first, same = (detect(vae, data, [], ScoringConfig(1, 0, 0), None, max_inputs=20) for _ in range(2))
        assert first == same == replace(first) and isinstance(first, Detection)
