"""`/encode`, `/decode`, `/sample`, `/reconstruct` over HTTP, for every kind of model."""

import asyncio
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from model import random
from model.interpolation import linear, spherical
from model.vae import VAE
from tests.support.models import CLASSES, CONFIGS, build
from tests.support.requests import IMAGES, Serving, close, every, inputs, inside, npy, npz, outside, over_asgi


@every
def test_encode_gives_the_parameters_of_q_in_every_form(serving: Serving, name: str) -> None:
    x = inputs(name, 5)
    q = build(name).encode(inside(name, x))
    floats = (x / 255 if name in IMAGES else x).tolist()
    as_json = serving(name).post("/encode", json={"inputs": floats}).json()
    as_npz = npz(serving(name).post("/encode?format=npz", **npy(x)).content)
    for answer in (as_json, as_npz):
        assert set(answer) == {"mean", "variance"}
        close(answer["mean"], q.mean)
        close(answer["variance"], q.scale.square())


@every
def test_reconstruct_is_decode_of_the_encoded_mean(serving: Serving, name: str) -> None:
    client = serving(name)
    x = inputs(name, 4)
    mean = client.post("/encode", **npy(x)).json()["mean"]
    decoded = client.post("/decode", json={"latents": mean}).json()["outputs"]
    close(client.post("/reconstruct", **npy(x)).json()["outputs"], decoded)
    both = client.post("/reconstruct", **npy(x), params={"inputs": "true"}).json()
    close(both["outputs"], decoded)
    close(both["inputs"], outside(inside(name, x)))
    vae: VAE = build(name)
    close(decoded, outside(vae.decode(vae.encode(inside(name, x)).mean).mean))


@every
def test_the_first_n_samples_are_a_prefix(serving: Serving, name: str) -> None:
    client = serving(name)
    for noise in ("false", "true"):
        few = client.get(f"/sample?n=3&seed=5&noise={noise}").json()
        many = client.get(f"/sample?n=40&seed=5&noise={noise}").json()
        close(few["latents"], many["latents"][:3])
        close(few["outputs"], many["outputs"][:3])
        other = client.get(f"/sample?n=3&seed=6&noise={noise}").json()
        assert not np.allclose(few["latents"], other["latents"])


@every
def test_samples_are_drawn_through_the_prior(serving: Serving, name: str) -> None:
    answer = serving(name).get("/sample?n=5&seed=4&temperature=0.7").json()
    drawn = answer["latents"]
    prior, epsilon = build(name).prior, 0.7 * random.normal(4, (5, CONFIGS[name].latent))
    labels = prior.draw_labels(random.generator(4, random.LABELS).random(5))
    close(drawn, prior.to_latent(prior.place(torch.from_numpy(epsilon), labels)).numpy())
    assert np.allclose(drawn, epsilon, atol=1e-5) == (CONFIGS[name].prior.name == "standard")
    assert answer.get("labels") == ([prior.labels[label].name for label in labels] if prior.labels else None)


@pytest.mark.parametrize("label", CLASSES)
def test_samples_of_a_label(serving: Serving, label: str) -> None:
    client = serving("grey-conv-flow")
    answer = client.get("/sample", params={"n": 5, "seed": 4, "label": label}).json()
    prior, epsilon = build("grey-conv-flow").prior, torch.from_numpy(random.normal(4, (5, 4)))
    close(answer["latents"], prior.to_latent(prior.place(epsilon, np.full(5, CLASSES.index(label)))).numpy())
    assert answer["labels"] == [label] * 5
    arrays = np.load(io.BytesIO(client.get("/sample", params={"n": 2, "label": label, "format": "npz"}).content))
    assert arrays["labels"].tolist() == [label] * 2


@over_asgi
def test_an_unknown_label_names_those_that_there_are(serving: Serving) -> None:
    for name, detail in (
        ("grey-conv-flow", "query.label: is 'horse'; the labels are 'cat', 'dog', '<b>bird</b>'"),
        ("table-mlp-flow", "query.label: this model distinguishes no labels; leave it out"),
    ):
        answer = serving(name).get("/sample?label=horse")
        assert (answer.status_code, answer.json()["detail"]) == (422, detail)


@every
def test_samples_are_their_latents_decoded(serving: Serving, name: str) -> None:
    client = serving(name)
    sampled = client.get("/sample?n=4&temperature=0.5").json()
    close(client.post("/decode", json={"latents": sampled["latents"]}).json()["outputs"], sampled["outputs"])


@over_asgi
def test_temperature_scales_the_latents(serving: Serving) -> None:
    client = serving("table-mlp-gaussian")
    drawn = np.array(client.get("/sample?n=64").json()["latents"])
    half = np.array(client.get("/sample?n=64&temperature=0.5").json()["latents"])
    close(half, drawn / 2)
    assert not np.array(client.get("/sample?n=9&temperature=0").json()["latents"]).any()
    assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size)
    assert abs(drawn.std() - 1) < 4 / np.sqrt(2 * drawn.size)


@over_asgi
@every
def test_noise_is_drawn_around_the_mean(serving: Serving, name: str) -> None:
    client = serving(name)
    z = np.zeros((1, CONFIGS[name].latent))
    mean = np.array(client.post("/decode", **npy(z)).json()["outputs"])
    drawn = np.array(client.post("/decode?noise=true", **npy(np.repeat(z, 64, axis=0))).json()["outputs"])
    error = drawn.std(axis=0) / 8
    assert (error > 0).any()
    assert (np.abs(drawn.mean(axis=0) - mean[0]) <= 6 * error + 0.01).all()


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_accepted_and_returned_as_png(serving: Serving, name: str) -> None:
    client, data = serving(name), CONFIGS[name].data
    x = inputs(name, 3)
    files = []
    for row in x:
        file = io.BytesIO()
        Image.fromarray(row).save(file, "PNG")
        files.append(file.getvalue())
    whole = client.post("/encode", **npy(x)).json()
    parts = [("inputs", (f"{i}.png", content, "image/png")) for i, content in enumerate(files)]
    close(client.post("/encode?strict=true", files=parts).json()["mean"], whole["mean"])
    single = client.post("/encode", content=files[0], headers={"Content-Type": "image/png"}).json()
    close(single["mean"], whole["mean"][:1])

    height, width = data.public_shape[:2]
    grid = client.post("/reconstruct", **npy(x), params={"format": "png"})
    assert grid.headers["content-type"] == "image/png"
    picture = np.asarray(Image.open(io.BytesIO(grid.content)))
    assert picture.shape[:2] == (2 * height, 2 * width)
    outputs = np.array(client.post("/reconstruct", **npy(x)).json()["outputs"])
    np.testing.assert_array_equal(picture[height:, :width], np.rint(outputs[2] * 255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_grey_of_12_bits_in_16_is_as_bright_as_its_depth_says(serving: Serving, kind: str) -> None:
    client = serving("grey-mlp-discretized")
    shades = inputs("grey-mlp-discretized", 1)[0]
    file = io.BytesIO()
    Image.fromarray(shades.astype(np.uint16) * 16 + 7).save(file, kind)
    image: dict[str, Any] = {"content": file.getvalue(), "headers": {"Content-Type": f"image/{kind.lower()}"}}
    for path in ("/reconstruct?inputs=true&depth=12", "/reconstruct?inputs=true&depth=16"):
        seen = np.array(client.post(path, **image).json()["inputs"])
        close(seen[0] * 255, shades if path.endswith("12") else shades // 16)
    for path in ("/encode", "/free-energy", "/reconstruct"):
        assert client.post(f"{path}?depth=12", **image).status_code == 200
        refused = client.post(f"{path}?depth=11", **image)
        assert refused.status_code == 422
        assert "send depth=12" in refused.json()["errors"][0]["detail"]
        for depth in ("7", "17", "twelve"):
            assert client.post(f"{path}?depth={depth}", **image).status_code == 422
        assert "16" in client.post(f"{path}?strict=true&depth=12", **image).json()["detail"]


def test_models_of_vectors_refuse_images(serving: Serving) -> None:
    client = serving("table-mlp-gaussian")
    for path in ("/sample?format=png", "/encode?format=png"):
        assert client.request("GET" if "sample" in path else "POST", path).status_code in {406, 422}
    refused = client.get("/sample", headers={"Accept": "image/png"})
    assert refused.status_code == 406
    refused = client.post("/encode", content=b"x", headers={"Content-Type": "image/png"})
    assert refused.status_code == 415


@over_asgi
@every
def test_a_result_does_not_depend_on_the_other_rows(serving: Serving, name: str) -> None:
    client = serving(name)
    x = inputs(name, 64)
    together = client.post("/encode", **npy(x)).json()
    for i in (0, 31, 63):
        alone = client.post("/encode", **npy(x[i : i + 1])).json()
        for key in ("mean", "variance"):
            close(alone[key], together[key][i : i + 1])


def test_concurrent_requests_each_get_their_own_result(serving: Serving) -> None:
    name = "grey-mlp-discretized"
    client = serving(name)
    x = inputs(name, 60)
    alone = client.post("/encode", **npy(x)).json()["mean"]

    async def encode(i: int) -> Any:
        return await asyncio.to_thread(lambda: client.post("/encode", **npy(x[i : i + 1])).json()["mean"])

    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(encode(i) for i in range(60)))

    close(np.concatenate(asyncio.run(all_at_once())), alone)


@pytest.mark.parametrize("along", ["latent", "prior"])
@pytest.mark.parametrize("name", ["grey-conv-flow", "table-mlp-flow", "grey-conv-gaussian"])
def test_interpolation_leads_from_one_input_to_the_other(serving: Serving, name: str, along: str) -> None:
    client, x, vae = serving(name), inputs(name, 2), build(name)
    ends = vae.encode(inside(name, x)).mean
    answer = client.post(f"/interpolate?steps=5&along={along}", **npy(x)).json()
    way = linear if along == "latent" else spherical
    u = ends if along == "latent" else vae.prior.to_base(ends)
    first, last = u.double().numpy()
    path = torch.from_numpy(way(first, last, 5).astype(np.float32))
    expected = path if along == "latent" else vae.prior.to_latent(path)
    close(answer["latents"], expected)
    close(answer["outputs"], outside(vae.decode(expected).mean))
    again = client.post(
        f"/interpolate?steps=5&along={along}&of=latents", json={"latents": ends.numpy().astype(float).tolist()}
    ).json()
    close(again["latents"], expected)
    assert again["latents"][0] == pytest.approx(ends[0].tolist(), abs=1e-6)


@over_asgi
def test_interpolation_is_between_two(serving: Serving) -> None:
    client, x = serving("grey-conv-flow"), inputs("grey-conv-flow", 3)
    for rows, place in ((x[:1], "inputs: has 1 rows"), (x, "inputs: has 3 rows")):
        answer = client.post("/interpolate", **npy(rows))
        assert (answer.status_code, place in answer.json()["detail"]) == (422, True)
    assert client.post("/interpolate?steps=1", **npy(x[:2])).status_code == 422
    assert client.post("/interpolate?steps=9999", **npy(x[:2])).status_code == 413
    picture = client.post("/interpolate?steps=3&format=png", **npy(x[:2]))
    assert Image.open(io.BytesIO(picture.content)).width >= 8
