"""Networks: shapes for every image size, and independence of the samples of a batch."""

import pytest
import torch

from model.config import ConvNetwork, ImageData, MLPNetwork, ModelConfig, VectorData
from model.likelihoods.discretized import DiscretizedLikelihood
from model.networks import NETWORKS, Residual, Standardize
from model.vae import VAE
from tests.support.models import CONFIGS, TABLE, build

SIZES = [(9, 10, 3), (28, 28, 1), (17, 16, 1), (4, 4, 1), (5, 33, 3)]


@pytest.mark.parametrize("stages", [1, 2, 5])
@pytest.mark.parametrize(("height", "width", "channels"), SIZES)
@pytest.mark.parametrize("kind", ["conv", "mlp"])
def test_bodies_fit_pictures_of_every_size(kind: str, height: int, width: int, channels: int, stages: int) -> None:
    data = ImageData.model_validate({"height": height, "width": width, "channels": channels})
    network = (
        ConvNetwork(channels=(2, 3, 4, 3, 2)[:stages], blocks=(1, 0, 1, 2, 0)[:stages])
        if kind == "conv"
        else MLPNetwork(hidden=(5,) * stages)
    )
    config = ModelConfig(data=data, network=network, latent=6, likelihood=DiscretizedLikelihood())
    encoder, decoder = NETWORKS[kind]
    assert encoder(config)(torch.zeros(2, *data.shape)).shape == (2, 12)
    assert decoder(config, 9)(torch.zeros(2, 6)).shape == (2, 9, *data.shape)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_sample_does_not_depend_on_the_other_rows(name: str) -> None:
    vae = build(name)
    draw = torch.Generator().manual_seed(0)
    x, z = torch.rand(5, *vae.config.data.shape, generator=draw), torch.randn(5, vae.config.latent, generator=draw)
    other_x, other_z = x.clone(), z.clone()
    other_x[1], other_z[1] = 1e6, 1e6
    keep = [0, 2, 3, 4]
    for before, after in (
        (vae.encode(x).mean, vae.encode(other_x).mean),
        (vae.encode(x).scale, vae.encode(other_x).scale),
        (vae.decode(z).mean, vae.decode(other_z).mean),
    ):
        assert torch.equal(before[keep], after[keep])
        assert not torch.equal(before[1], after[1])


@pytest.mark.parametrize("name", ["rgb-conv-discretized", "grey-conv-gaussian"])
def test_every_pixel_affects_the_latent_and_is_affected_by_it(name: str) -> None:
    vae = build(name)
    x = torch.rand(1, *vae.config.data.shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
    vae.encode(x).mean.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert (x.grad != 0).all()
    far, near = (
        vae.decode(torch.full((1, vae.config.latent), 2.0)).mean,
        vae.decode(torch.zeros(1, vae.config.latent)).mean,
    )
    assert (far != near).all()


def test_a_residual_block_starts_as_the_identity_up_to_a_shift() -> None:
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    block = Residual(3)
    assert torch.allclose(block(x) - x, (block(x) - x)[0, :, 0, 0].view(1, 3, 1, 1).expand_as(x), atol=1e-6)


def test_standardized_columns_have_mean_zero_and_unit_spread() -> None:
    mean, std = torch.tensor(TABLE.mean), torch.tensor(TABLE.std)
    rows = torch.stack([mean, mean + std, mean - 2 * std])
    expected = torch.tensor([0.0, 1.0, -2.0])[:, None].expand(3, 3)
    assert torch.allclose(Standardize(TABLE)(rows), expected, atol=1e-4)
    ends = Standardize(ImageData(height=4, width=4))(torch.tensor([[0.0], [1.0]]))
    assert ends.flatten().tolist() == [-1, 1]


def test_a_decoder_mirrors_its_encoder() -> None:
    config = ModelConfig(
        data=VectorData(columns=("a",), mean=(0,), std=(1,)),
        network=MLPNetwork(hidden=(7, 5)),
        latent=2,
        likelihood=CONFIGS["table-mlp-gaussian"].likelihood,
    )
    vae = VAE(config)
    widths = [[w.shape[0] for w in body.parameters() if w.ndim == 1] for body in (vae.encoder, vae.decoder)]
    assert widths == [[7, 5, 4], [5, 7, 1]]
