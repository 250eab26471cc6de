"""How good a model's reconstructions and samples are, beside PCA, and how well its prior fits its latents.

A bound says nothing about what is seen: a decoder that leaves most to the noise of P(x|z) can have a low free energy
and grey reconstructions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import random
from model.config import ImageData
from model.data import Array, Floats
from model.likelihoods.gaussian import LOG_2PI
from model.scoring.batches import in_batches
from model.scoring.quality import frechet_distance, precision_recall
from model.vae import VAE, to_tensor

#: Most samples that quality is measured on.
MAX_SAMPLES = 2000
#: A latent dimension is in use where its KL(Q, N(0, 1)) is above this, nats.
MIN_USED_NATS = 0.1
#: Side of the windows of SSIM, in pixels, and its constants for values in [0, 1] (Wang et al. 2004).
SSIM_WINDOW, SSIM_C1, SSIM_C2 = 7, 0.01**2, 0.03**2
#: The smallest mean squared error that counts, for values in [0, 1]: of an exact reconstruction PSNR would be infinite.
MIN_MSE = 1e-10
SEED = 0


@dataclass(frozen=True)
class Quality:
    """Quality on `samples` samples, whose reconstructions are the mean of P(x|z) at the mean of Q.

    `psnr` (dB) and `ssim` are means over images, None for other data. `explained` is the share of the variance that
    reconstructions explain; columns of vectors count equally. `components` is the number of latent dimensions in use.
    `pca_psnr` and `pca_explained` are those of PCA with as many components, fitted to one half of the samples and
    measured on the other, both ways; None with too few samples for so many components.

    `frechet`, `precision` and `recall` compare as many draws of the prior with the samples, by the means that the
    encoder gives to both: they are blind to what it ignores. `gaussian_gain` is how many nats a Gaussian with a full
    covariance, fitted to latents of one half, saves on those of the other against the prior; None with too few samples.
    """

    samples: int
    psnr: float | None
    ssim: float | None
    explained: float
    components: int
    pca_psnr: float | None
    pca_explained: float | None
    frechet: float | None
    precision: float | None
    recall: float | None
    gaussian_gain: float | None


@torch.inference_mode()
def measure(vae: VAE, x: Array, kl_to_normal: Floats) -> Quality:
    """Measure quality on samples as a dataset gives them, two at least.

    Args:
        kl_to_normal: mean KL(Q, N(0, 1)) of each latent dimension, nats.
    """
    x, data, device = x[:MAX_SAMPLES], vae.config.data, str(vae.device)
    inputs, reconstructed, means, scales = [], [], [], []
    for batch in in_batches(x):
        tensor = to_tensor(batch, device)
        q = vae.encode(tensor)
        inputs.append(tensor.cpu())
        reconstructed.append(vae.decode(q.mean).mean.cpu())
        means.append(q.mean.cpu())
        scales.append(q.scale.expand_as(q.mean).cpu())
    truth, found, mean, scale = (torch.cat(parts) for parts in (inputs, reconstructed, means, scales))
    unit = 1.0 if isinstance(data, ImageData) else torch.tensor(data.std)
    flat, ours = ((values / unit).flatten(1).double().numpy() for values in (truth, found))
    components = int((kl_to_normal > MIN_USED_NATS).sum())
    pca = pca_reconstructions(flat, components)
    if pca is not None and isinstance(data, ImageData):
        pca = pca.clip(0, 1)
    z = mean + scale * torch.from_numpy(random.normal(SEED, tuple(mean.shape)))
    sampled = _sample_means(vae, len(x))
    compared = precision_recall(mean.double().numpy(), sampled) if len(x) > 3 else None
    return Quality(
        samples=len(x),
        psnr=psnr(flat, ours) if isinstance(data, ImageData) else None,
        ssim=ssim(truth, found) if isinstance(data, ImageData) and min(truth.shape[2:]) >= SSIM_WINDOW else None,
        explained=explained_variance(flat, ours),
        components=components,
        pca_psnr=psnr(flat, pca) if pca is not None and isinstance(data, ImageData) else None,
        pca_explained=None if pca is None else explained_variance(flat, pca),
        frechet=frechet_distance(mean.double().numpy(), sampled) if len(x) > mean.shape[1] else None,
        precision=compared[0] if compared else None,
        recall=compared[1] if compared else None,
        gaussian_gain=gaussian_gain(vae, z),
    )


def _sample_means(vae: VAE, count: int) -> Floats:
    """Means of Q of prior samples, n x latent: of decoded means of images, of draws of vectors."""
    parts = []
    latents = vae.sample_prior(count, SEED)
    for start in range(0, count, 256):
        p = vae.decode(latents[start : start + 256])
        if isinstance(vae.config.data, ImageData):
            x = p.mean
        else:
            rows = range(start, min(start + 256, count))
            x = p.sample(to_tensor(random.uniform(SEED, rows, vae.config.data.shape), str(vae.device)))
        parts.append(vae.encode(x).mean.cpu().double().numpy())
    return np.concatenate(parts)


def pca_reconstructions(flat: Floats, components: int) -> Floats | None:
    """Each row as PCA with so many components gives it back, fitted to the rows of the other half; None if too few."""
    if len(flat) // 2 <= components or not components:
        return None
    result = np.empty_like(flat)
    for half in (0, 1):
        fitted, other = flat[half::2], flat[1 - half :: 2]
        center = fitted.mean(axis=0)
        axes = np.linalg.svd(fitted - center, full_matrices=False)[2][:components]
        result[1 - half :: 2] = center + (other - center) @ axes.T @ axes
    return result


def psnr(truth: Floats, found: Floats) -> float:
    """Mean over images of the peak signal-to-noise ratio, dB, for values in [0, 1]."""
    return float(-10 * np.log10(np.square(truth - found).mean(axis=1).clip(MIN_MSE)).mean())


def explained_variance(truth: Floats, found: Floats) -> float:
    """Share of the variance of all dimensions together that is explained."""
    return float(1 - np.square(truth - found).sum() / max(np.square(truth - truth.mean(axis=0)).sum(), MIN_MSE))


def ssim(truth: Tensor, found: Tensor) -> float:
    """Mean structural similarity over images, channels and windows (Wang et al. 2004), with uniform windows."""

    def window(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(values, SSIM_WINDOW, stride=1)

    a, b = truth.double(), found.double()
    mean_a, mean_b = window(a), window(b)
    variances = window(a * a) - mean_a**2 + window(b * b) - mean_b**2
    covariance = window(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    return float((luminance * (2 * covariance + SSIM_C2) / (variances + SSIM_C2)).mean())


def gaussian_gain(vae: VAE, z: Tensor) -> float | None:
    """Nats that a Gaussian fitted to one half of the latents saves on the other against the prior; see `Quality`."""
    latent = z.shape[1]
    if len(z) // 2 <= 2 * latent:
        return None
    ours = vae.prior.nlog_prob(z.to(vae.device)).double().cpu().numpy()
    values, theirs = z.double().numpy(), np.empty(len(z))
    for half in (0, 1):
        fitted, other = values[half::2], values[1 - half :: 2]
        factor = np.linalg.cholesky(np.cov(fitted, rowvar=False).reshape(latent, latent) + 1e-9 * np.eye(latent))
        epsilon = np.linalg.solve(factor, (other - fitted.mean(axis=0)).T)
        log_determinant = np.log(np.diag(factor)).sum()
        theirs[1 - half :: 2] = 0.5 * np.square(epsilon).sum(axis=0) + 0.5 * latent * LOG_2PI + log_determinant
    return float((ours - theirs).mean())
