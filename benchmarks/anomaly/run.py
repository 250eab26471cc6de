"""How well `vae score` finds outliers, beside PyOD's VAE, ECOD and IForest on the same data: `make bench-anomaly`.

Breast cancer: fitted to half of the benign rows of scikit-learn's set, asked to tell the other half from the malignant
ones; five splits. Fashion-MNIST: fitted to the training images of one class, asked to tell its test images from those
of the other nine; all ten classes. Every detector is used as it comes, and sees no label. The score of `vae score` is
fixed in advance: typicality where the model has it, else free energy, both from 16 draws.
"""

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from model import machine
from model.datasets import open_dataset
from model.scoring.detection import auroc

HERE = Path(__file__).parent
SPLITS = 5


def breast_cancer() -> Iterator[tuple[str, dict[str, NDArray]]]:
    """Each split by name: train and test rows, and which of the test rows are outliers."""
    data = load_breast_cancer()
    benign, malignant = data.data[data.target == 1], data.data[data.target == 0]
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(len(benign))
        half = len(benign) // 2
        test = np.concatenate([benign[order[half:]], malignant])
        outlier = np.arange(len(test)) >= len(benign) - half
        columns = np.array([name.replace(" ", "_") for name in data.feature_names])
        yield (
            f"breast cancer, split {seed}",
            {
                "train": benign[order[:half]],
                "test": test,
                "outlier": outlier,
                "columns": columns,
            },
        )


def fashion_mnist() -> Iterator[tuple[str, dict[str, NDArray]]]:
    """Each class by name."""
    train, test = open_dataset("fashion-mnist"), open_dataset("fashion-mnist:test")
    train_labels, test_labels = train.labels(), test.labels()
    train_images, test_images = train.load(), test.load()
    for label in range(10):
        yield (
            f"Fashion-MNIST, class {label}",
            {
                "train": train_images[train_labels == label],
                "test": test_images,
                "outlier": test_labels != label,
            },
        )


def ours(parts: dict[str, NDArray], folder: Path, options: list[str]) -> NDArray[np.float64]:
    """The scores of the test samples by `vae train` and `vae score`, run as a user would."""
    for part in ("train", "test"):
        if parts[part].ndim == 2:
            with (folder / f"{part}.csv").open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(parts["columns"])
                writer.writerows(parts[part].tolist())
        else:
            np.save(folder / f"{part}.npy", parts[part])
    suffix = "csv" if parts["train"].ndim == 2 else "npy"
    vae = [str(Path(sys.executable).with_name("vae"))]
    train = [*vae, "train", f"train.{suffix}", "--out", "run", *options]
    for command in (train, [*vae, "score", "run", f"test.{suffix}", "--samples", "16", "--out", "scores.csv"]):
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with (folder / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    column = "typicality" if rows[0]["typicality"] else "free_energy"
    return np.array([float(row[column]) for row in rows])


def peers(parts: dict[str, NDArray], folder: Path, python: str) -> dict[str, NDArray]:
    """The scores of PyOD's detectors; images as rows of numbers from 0 to 1."""
    flat = {part: parts[part].reshape(len(parts[part]), -1) for part in ("train", "test")}
    if parts["train"].dtype == np.uint8:
        flat = {part: array.astype(np.float32) / 255 for part, array in flat.items()}
    np.savez(folder / "split.npz", **flat)
    subprocess.run([python, str(HERE / "peers.py"), "split.npz", "peers.npz"], cwd=folder, check=True)
    with np.load(folder / "peers.npz") as file:
        return dict(file)


def measure(name: str, parts: dict[str, NDArray], python: str, options: list[str]) -> dict[str, float]:
    """AUROC of every detector on one split, and how many seconds each took."""
    outlier = parts["outlier"]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        scores = {"vae score": ours(parts, Path(folder), options)}
        seconds = time.perf_counter() - started
        scores |= peers(parts, Path(folder), python)
    row = {"vae score seconds": seconds}
    for detector, values in scores.items():
        row[detector] = float(values) if values.ndim == 0 else auroc(values[~outlier], values[outlier])
    print(f"{name:28}", *(f"{key} {value:.4f}" for key, value in row.items() if "seconds" not in key), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--peers",
        required=True,
        type=lambda path: str(Path(path).absolute()),
        help="the Python of an environment with requirements.txt",
    )
    parser.add_argument("--only", choices=["breast-cancer", "fashion-mnist"])
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    parser.add_argument("options", nargs="*", help="options of vae train, after --")
    given = parser.parse_args()
    print(f"{machine.describe('cpu')}; Python {platform.python_version()}")
    results: dict[str, dict[str, float]] = {}
    for kind, splits in {"breast-cancer": breast_cancer, "fashion-mnist": fashion_mnist}.items():
        if given.only in {None, kind}:
            rows = {name: measure(name, parts, given.peers, given.options) for name, parts in splits()}
            mean = {key: float(np.mean([row[key] for row in rows.values()])) for key in next(iter(rows.values()))}
            print(f"{kind + ', mean':28}", *(f"{key} {value:.4f}" for key, value in mean.items()), flush=True)
            results |= rows | {f"{kind}, mean": mean}
    if given.out:
        given.out.write_text(json.dumps({"machine": machine.describe("cpu"), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
