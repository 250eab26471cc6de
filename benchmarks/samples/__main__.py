"""How samples of models look to a classifier: `make bench-samples`.

A small classifier is trained on the training images of Fashion-MNIST, with a fixed seed. Its 128 features give Fréchet
distances to the 10,000 test images: of as many prior samples of each model, as decoded means and with noise drawn, of
its reconstructions of the test images, and, without a model, of training images. For a model with labels it also says
how often the classifier agrees with the label that a sample was drawn for.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from model import checkpoint, machine, random
from model.checkpoint import Checkpoint
from model.datasets import open_dataset
from model.scoring.batches import in_batches
from model.scoring.quality import frechet_distance
from model.vae import to_tensor

OUT = Path(__file__).parents[1]
SEED, EPOCHS, BATCH, LEARNING_RATE = 0, 5, 128, 2e-3
Images = NDArray[np.float32]


class Classifier(nn.Module):
    """Two convolutions and 128 features, from which ten classes are told."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 49, 128),
            nn.ReLU(),
        )
        self.classes = nn.Linear(128, 10)

    @classmethod
    def trained(cls) -> "Classifier":
        """Trained on all training images, in one thread: sums in another order would make another classifier."""
        torch.manual_seed(SEED)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        train, network = open_dataset("fashion-mnist"), cls()
        images, labels = train.load(), torch.from_numpy(np.asarray(train.labels()))
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        for epoch in range(EPOCHS):
            order = random.generator(SEED, random.SHUFFLE, epoch).permutation(len(images))
            for start in range(0, len(order), BATCH):
                picks = order[start : start + BATCH]
                loss = nn.functional.cross_entropy(network(to_tensor(images[picks])), labels[picks])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        torch.set_num_threads(threads)
        return network.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the classes."""
        logits: Tensor = self.classes(self.features(x))
        return logits

    def describe(self, images: Images) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Features and most probable class of each image."""
        features = torch.cat([self.features(to_tensor(batch)) for batch in in_batches(images)])
        return features.double().numpy(), self.classes(features).argmax(1).numpy()


def batches_of(count: int, rows: int = 256) -> Iterator[range]:
    """Ranges of rows."""
    return (range(start, min(start + rows, count)) for start in range(0, count, rows))


@torch.inference_mode()
def decode(model: Checkpoint, z: Tensor, *, noisy: bool) -> Images:
    """Decoded means, or draws, as images in [0, 1]."""
    parts = []
    for rows in batches_of(len(z)):
        p = model.vae.decode(z[rows.start : rows.stop])
        shape = model.vae.config.data.shape
        parts.append(p.sample(to_tensor(random.uniform(SEED, rows, shape))) if noisy else p.mean)
    return torch.cat(parts).clamp(0, 1).numpy()


@torch.inference_mode()
def measure(model: Checkpoint, classifier: Classifier, test: Images, count: int) -> dict[str, float | None]:
    """The figures of one model."""
    vae, target = model.vae, classifier.describe(test)[0]
    z = vae.sample_prior(count, SEED)
    samples, classes = classifier.describe(decode(model, z, noisy=False))
    means = torch.cat([vae.encode(to_tensor(batch)).mean for batch in in_batches(test)])
    agreement = None
    if vae.prior.labels:
        drawn = vae.prior.draw_labels(random.generator(SEED, random.LABELS).random(count))
        agreement = float((classes == drawn).mean())
    return {
        "samples": frechet_distance(samples, target),
        "samples with noise": frechet_distance(classifier.describe(decode(model, z, noisy=True))[0], target),
        "reconstructions": frechet_distance(classifier.describe(decode(model, means, noisy=False))[0], target),
        "reconstructions with noise": frechet_distance(
            classifier.describe(decode(model, means, noisy=True))[0], target
        ),
        "label agreement": agreement,
    }


def draw(models: list[Checkpoint], data: Images, path: Path) -> None:
    """A row of data, then two rows of prior samples of each model."""
    rows = [data[:20]]
    for model in models:
        samples = decode(model, model.vae.sample_prior(40, SEED), noisy=False)
        rows += [samples[:20], samples[20:]]
    pixels = np.concatenate([np.concatenate(list(row[:, 0]), axis=1) for row in rows])
    image = Image.fromarray((255 * pixels).round().astype(np.uint8))
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(path)


def report(results: dict[str, dict[str, float | None]], accuracy: float, training: float, count: int) -> str:
    """The results in Markdown."""
    lines = [
        "# Samples",
        "",
        f"Fréchet distances to the 10,000 test images of Fashion-MNIST, in the 128 features of a classifier that tells "
        f"{accuracy:.1%} of them. {count:,} samples of the prior at temperature 1, seed {SEED}. "
        f"{machine.describe('cpu')}.",
        "",
        "```",
        "make bench-samples",
        "```",
        "",
        f"As many training images are at {training:.2f}.",
        "",
        "| model | samples | samples with noise | reconstructions | reconstructions with noise | label told |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        cells = [f"{result[key]:.2f}" for key in list(result)[:4]]
        told = result["label agreement"]
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if told is None else f'{told:.1%}'} |")
    lines += [
        "",
        "Samples and reconstructions are decoded means; with noise, x is drawn from P(x|z). The last column says how "
        "often the classifier sees the label that a sample was drawn for. The first row of the picture is data, two "
        "rows are samples of each model.",
        "",
        "![samples](samples.png)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.samples", description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["fashion-mnist"], help="runs, checkpoints or names")
    parser.add_argument("--count", type=int, default=10_000, help="samples of each model (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the report")
    options = parser.parse_args()
    models = [checkpoint.load(Path(name), calibrated=False, shown=False) for name in options.models]
    classifier = Classifier.trained()
    dataset = open_dataset("fashion-mnist:test")
    test = to_tensor(dataset.load()).numpy()
    features, classes = classifier.describe(test)
    accuracy = float((classes == dataset.labels()).mean())
    picks = random.generator(SEED, random.SHUFFLE).permutation(60_000)[: len(test)]
    train = to_tensor(open_dataset("fashion-mnist").load()[picks]).numpy()
    training = frechet_distance(classifier.describe(train)[0], features)
    print(f"classifier {accuracy:.1%}, training images {training:.2f}", flush=True)
    results = {}
    for name, model in zip(options.models, models, strict=True):
        results[name] = measure(model, classifier, test, options.count)
        print(name, json.dumps(results[name]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    draw(models, test, options.out / "samples.png")
    (options.out / "SAMPLES.md").write_text(report(results, accuracy, training, options.count))


if __name__ == "__main__":
    main()
