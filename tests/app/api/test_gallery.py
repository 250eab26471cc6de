"""`/model/gallery` and what belongs to it over HTTP, for every kind of model."""

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.api import gallery as routes
from app.api.schemas import Gallery, GalleryInput, Placed
from model import gallery
from model.checkpoint import Card, Checkpoint, load, save, save_gallery
from model.config import ImageData, MLPNetwork, ModelConfig
from model.vae import VAE
from tests.support.models import CLASSES, CONFIGS, LEARNING, reference
from tests.support.requests import IMAGES, Serving, close, every, npz
from tests.support.services import Running, Transport, client_of

GREY, TABLE = "grey-mlp-discretized", "table-mlp-gaussian"
images = pytest.mark.parametrize("name", IMAGES)
Load = Callable[[str], Checkpoint]
BOTH = ("/model/gallery", "/model/gallery/input")


def picture(content: bytes) -> np.ndarray:
    """The pixels of a PNG."""
    with Image.open(io.BytesIO(content)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def inside_out(name: str) -> np.ndarray:
    """Inputs of the gallery, channels last."""
    x = reference(name)
    if name not in IMAGES:
        return x
    return x[:, 0] if x.shape[1] == 1 else x.transpose(0, 2, 3, 1)


@every
def test_the_json_holds_all_fields_but_inputs_and_latents(serving_shown: Serving, shown: Load, name: str) -> None:
    response = serving_shown(name).get("/model/gallery")
    answer = Gallery.model_validate(response.json())
    assert response.headers["x-model-digest"] == shown(name).digest
    assert answer.inputs == 120
    assert answer.labels == [index % 3 for index in range(120)]
    assert answer.label_names == list(CLASSES)
    assert [epoch.model_dump() for epoch in answer.learning] == [epoch.model_dump() for epoch in LEARNING]
    assert sum(answer.histogram.counts) == 120
    assert len(answer.kl_to_normal) == CONFIGS[name].latent
    assert {len(numbers) for numbers in answer.scores.values()} == {120}
    assert ("bits_per_dim" in answer.scores) == (CONFIGS[name].likelihood.name != "gaussian")
    assert (answer.thumbnails is None) == (name not in IMAGES)


@every
def test_the_projection_places_any_latent_on_the_map(serving_shown: Serving, name: str) -> None:
    client = serving_shown(name)
    projection = client.get("/model/gallery").json()["projection"]
    assert projection["method"] == "pca"
    assert 0 < sum(projection["explained"]) <= 1 + 1e-6
    x = inside_out(name) / (255 if name in IMAGES else 1)
    mean = np.array(client.post("/encode", json={"inputs": x[:7].tolist()}).json()["mean"])
    placed = (mean - projection["origin"]) @ np.array(projection["axes"]).T
    close(placed, projection["coordinates"][:7], 1e-4)


@every
def test_latents_are_placed_among_the_inputs(serving_shown: Serving, name: str) -> None:
    client = serving_shown(name)
    answer = client.get("/model/gallery").json()
    assert answer["embedding"]["method"] == "tsne"
    x = inside_out(name) / (255 if name in IMAGES else 1)
    mean = client.post("/encode", json={"inputs": x[:7].tolist()}).json()["mean"]
    placed = client.post("/model/gallery/place", json={"latents": mean})
    assert Placed.model_validate(placed.json())
    close(placed.json()["projection"], answer["projection"]["coordinates"][:7], 1e-4)
    arrays = npz(client.post("/model/gallery/place?format=npz", json={"latents": mean}).content)
    close(arrays["projection"], placed.json()["projection"], 1e-5)
    # Inputs of the gallery lie where they are.
    close(placed.json()["embedding"], answer["embedding"]["coordinates"][:7], 1e-2)


def test_without_an_embedding_latents_are_projected(tmp_path: Path, transport: Transport, shown: Load) -> None:
    checkpoint = shown(GREY)
    assert checkpoint.gallery is not None
    save(tmp_path / "m", checkpoint.vae, checkpoint.card, shown=replace(checkpoint.gallery, embedding=None))
    with client_of(load(tmp_path / "m"), transport) as client:
        assert client.get("/model/gallery").json()["embedding"] is None
        placed = client.post("/model/gallery/place", json={"latents": [[0.0] * 4]}).json()
        assert placed["embedding"] is None and len(placed["projection"][0]) == 2


@every
def test_gallery_scores_equal_those_of_free_energy(serving_shown: Serving, name: str) -> None:
    client = serving_shown(name)
    scores = client.get("/model/gallery").json()["scores"]
    x = inside_out(name) / (255 if name in IMAGES else 1)
    answer = client.post("/free-energy", json={"inputs": x[:5].tolist()}).json()
    assert "typicality" in scores
    for score, numbers in scores.items():
        close(numbers[:5], answer[score], 1e-3 if score == "typicality" else 1e-4)


@every
def test_an_input_comes_with_its_latents_and_scores(serving_shown: Serving, shown: Load, name: str) -> None:
    content = shown(name).gallery
    assert content is not None
    client, scale = serving_shown(name), 255 if name in IMAGES else 1
    for index in (0, 17, 119):
        answer = GalleryInput.model_validate(client.get(f"/model/gallery/input?index={index}").json())
        arrays = npz(client.get(f"/model/gallery/input?index={index}&format=npz").content)
        for inputs in (answer.inputs, arrays["inputs"]):
            close(np.array(inputs) * scale, inside_out(name)[index : index + 1])
        for mean, variance in ((answer.mean, answer.variance), (arrays["mean"], arrays["variance"])):
            close(mean, content.mean[index : index + 1])
            close(variance, content.variance[index : index + 1])
        assert (answer.label, answer.label_name) == (index % 3, CLASSES[index % 3])
        assert arrays["label"] == index % 3
        for score, numbers in content.scores.items():
            close(answer.model_dump()["scores"][score], numbers[index : index + 1])
            close(arrays[f"scores.{score}"], numbers[index : index + 1])
    assert client.get("/model/gallery/input").json() == client.get("/model/gallery/input?index=0").json()


@images
def test_an_input_is_a_valid_body_of_encode(serving_shown: Serving, name: str) -> None:
    client = serving_shown(name)
    answer = client.get("/model/gallery/input?index=5").json()
    encoded = client.post("/encode", json={"inputs": answer["inputs"]}).json()
    close(encoded["mean"], answer["mean"])
    png = client.get("/model/gallery/input?index=5&format=png")
    assert png.headers["content-type"] == "image/png"
    same = client.post("/encode?strict=true", content=png.content, headers={"Content-Type": "image/png"}).json()
    close(same["mean"], answer["mean"])


@images
def test_the_thumbnail_sheet_holds_each_image_at_its_index(serving_shown: Serving, name: str) -> None:
    client = serving_shown(name)
    size = client.get("/model/gallery").json()["thumbnails"]
    columns, width, height = size["columns"], size["width"], size["height"]
    data = CONFIGS[name].data
    assert isinstance(data, ImageData)
    assert (width, height) == (data.width, data.height)
    sheet = picture(client.get("/model/gallery?format=png").content)
    assert sheet.shape[:2] == (math.ceil(120 / columns) * height, columns * width)
    for index, expected in enumerate(inside_out(name)):
        top, left = index // columns * height, index % columns * width
        np.testing.assert_array_equal(sheet[top : top + height, left : left + width], expected)


@pytest.mark.parametrize(("height", "width", "small"), [(64, 40, (20, 32)), (10, 90, (32, 4)), (32, 32, (32, 32))])
def test_thumbnails_of_large_images_keep_the_aspect_ratio(
    height: int, width: int, small: tuple[int, int], tmp_path: Path, transport: Transport
) -> None:
    data = ImageData(height=height, width=width)
    vae = VAE(ModelConfig(data=data, network=MLPNetwork(hidden=(4,)), latent=2, likelihood=CONFIGS[GREY].likelihood))
    vae.eval().requires_grad_(False)
    # Floats, all bright on the left and dark on the right.
    samples = np.zeros((7, 1, height, width), np.float32)
    samples[..., : width // 2] = 1
    save(tmp_path / "model", vae, Card(name="x", created="2024-01-01"))
    save_gallery(tmp_path / "model", gallery.make(vae, samples))
    with client_of(load(tmp_path / "model"), transport) as client:
        answer = client.get("/model/gallery").json()
        assert answer["thumbnails"] == {"columns": 3, "width": small[0], "height": small[1]}
        assert (answer["labels"], answer["label_names"], answer["learning"]) == (None, None, [])
        told = client.get("/model/gallery/input?index=3").json()
        assert (told["label"], told["label_name"]) == (None, None)
        sheet = picture(client.get("/model/gallery?format=png").content)
    assert sheet.shape == (3 * small[1], 3 * small[0])
    first = sheet[: small[1], : small[0]]
    assert (first[:, : small[0] // 2] == 255).all() and (first[:, small[0] // 2 :] == 0).all()
    assert (sheet[2 * small[1] :, small[0] :] == 0).all()  # nothing is left for these places


def test_tables_have_no_pictures_and_the_sheet_no_arrays(serving_shown: Serving) -> None:
    client = serving_shown(TABLE)
    for path in BOTH:
        refused = client.get(f"{path}?format=png")
        assert refused.status_code == 406
        assert "json" in refused.json()["detail"]
    assert serving_shown(GREY).get("/model/gallery?format=npz").status_code == 422
    assert client.get("/model/gallery", headers={"Accept": "image/png"}).status_code == 406
    sheet = serving_shown(GREY).get("/model/gallery", headers={"Accept": "image/png"})
    assert sheet.headers["content-type"] == "image/png"


@pytest.mark.parametrize("index", [120, 10**9, 10**30])
def test_an_index_out_of_range_is_refused_with_the_range(serving_shown: Serving, index: int) -> None:
    refused = serving_shown(GREY).get(f"/model/gallery/input?index={index}")
    assert refused.status_code == 422
    assert refused.json()["errors"] == [
        {"place": "query.index", "detail": f"is {index}; the gallery has inputs 0 to 119"}
    ]


@pytest.mark.parametrize("index", ["-1", "one", "1.5", ""])
def test_an_index_that_is_not_an_integer_is_refused(serving_shown: Serving, index: str) -> None:
    refused = serving_shown(GREY).get(f"/model/gallery/input?index={index}")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["place"] == "query.index"


@pytest.mark.parametrize("path", [*BOTH, "/model/gallery?format=png", "/model/gallery/input?index=7&format=npz"])
def test_a_model_without_a_gallery_names_the_command_that_makes_one(serving: Serving, path: str) -> None:
    refused = serving(GREY).get(path)
    assert refused.status_code == 404
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:vae-server:problem:not-found"
    assert "make one with vae gallery MODEL DATA" in refused.json()["detail"]


@pytest.mark.parametrize("path", ["/model/gallery", "/model/gallery?format=png"])
def test_a_matching_etag_gets_304(serving_shown: Serving, shown: Load, path: str) -> None:
    client = serving_shown(GREY)
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for etags in (tag, f"W/{tag}", f'"other", {tag}'):
        again = client.get(path, headers={"If-None-Match": etags})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert again.headers["x-model-digest"] == shown(GREY).digest
    for etags in ('"other"', "", "nonsense"):
        assert client.get(path, headers={"If-None-Match": etags}).content == first.content
    assert serving_shown("rgb-conv-discretized").get(path).headers["etag"] != tag


def test_the_gallery_is_encoded_once_at_its_first_request(
    shown: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    encoded: list[str] = []

    def counted(write: Callable[..., bytes]) -> Callable[..., bytes]:
        def wrapped(*arguments: object) -> bytes:
            encoded.append(write.__name__)
            return write(*arguments)

        return wrapped

    for name in ("_json", "_thumbnail_sheet"):
        monkeypatch.setattr(routes, name, counted(getattr(routes, name)))
    fresh = load(shown(GREY).folder)
    assert fresh.gallery is not None
    with client_of(fresh) as client:
        client.get("/model")
        assert encoded == []
        for _ in range(3):
            for path in ("/model/gallery", "/model/gallery?format=png"):
                assert client.get(path).status_code == 200
        assert encoded == ["_json", "_thumbnail_sheet"]


def test_responses_are_complete_over_a_socket(running: Callable[..., Running], shown: Load) -> None:
    """A 304 has no body, and the next response on the connection begins where it ends."""
    import httpx2

    service = running(GREY)
    service.model.engine.checkpoint = shown(GREY)
    with httpx2.Client(base_url=f"http://127.0.0.1:{service.port}") as client:
        first = client.get("/model/gallery?format=png")
        assert picture(first.content).ndim == 2
        for _ in range(2):
            again = client.get("/model/gallery?format=png", headers={"If-None-Match": first.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
            assert client.get("/model/gallery/input?index=3").json()["label"] == 0
