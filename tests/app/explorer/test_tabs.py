"""The tabs for sliders, samples and model card in a real browser, compared with the service's answers."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from model import checkpoint
from model.checkpoint import Card
from tests.app.explorer.seen import Look, assert_accessible, pixels, scored
from tests.support.models import CLASSES, build


def test_sliders_show_the_decoded_latent(look: Look) -> None:
    seen = look(at="#sliders")
    rates = seen.ask("model/gallery").json()["kl_to_normal"]
    first = int(np.argmax(rates))
    dials = seen.page.locator("#sliders input[type=range]")
    assert int(dials.first.get_attribute("data-dimension") or -1) == first
    latent = [0.0] * len(rates)
    latent[first] = 2.5
    dials.first.fill("2.5")
    seen.page.wait_for_selector(
        f"#sliders canvas[data-shown='{json.dumps(latent).replace('.0,', ',').replace('.0]', ']').replace(' ', '')}']"
    )
    answer = seen.ask("decode?format=png", {"latents": [latent]})
    np.testing.assert_array_equal(pixels(seen, "#sliders canvas"), np.asarray(Image.open(io.BytesIO(answer.content))))
    seen.page.click("text=Copy as JSON")
    seen.page.wait_for_selector("text=Copied")
    copied = json.loads(seen.page.evaluate("navigator.clipboard.readText()"))
    assert copied == {"latents": [latent]}
    seen.page.click("text=Copy as curl")
    expect(seen.page.locator("text=Copied")).to_have_count(2)
    command = seen.page.evaluate("navigator.clipboard.readText()")
    assert f"{seen.address}/decode?format=png" in command
    with seen.page.expect_response("**/sample?n=1&seed=*") as drawn:
        seen.page.click("text=Sample the prior")
    sampled = drawn.value.json()["latents"][0]
    seen.page.wait_for_function(
        "z => Math.abs(document.querySelector('#sliders input[type=range]').value - z) < 0.006",
        arg=min(4.0, max(-4.0, sampled[first])),
    )
    seen.page.click("text=Set all to 0")
    assert dials.first.input_value() == "0"


def test_the_rate_of_images_is_shown_while_sliders_move(look: Look) -> None:
    seen = look(at="#sliders")
    seen.page.wait_for_selector("#sliders canvas[data-shown]")
    seen.page.clock.install()
    dial = seen.page.locator("#sliders input[type=range]").first
    for value in range(1, 10):
        dial.fill(str(value / 10))
        seen.page.wait_for_function(
            "value => JSON.parse(document.querySelector('#sliders canvas').dataset.shown).includes(value)",
            arg=value / 10,
        )
    rate = seen.page.locator("#sliders figcaption")
    assert re.fullmatch(r"\d+ images in the last second", rate.inner_text())
    seen.page.clock.run_for(1001)
    assert rate.inner_text() == ""


def test_the_inspected_input_opens_in_the_sliders(look: Look) -> None:
    seen = look()
    seen.inspected()
    mean = seen.ask("encode", {"inputs": seen.ask("model/gallery/input?index=0").json()["inputs"]}).json()["mean"][0]
    seen.page.click("text=Open in sliders")
    seen.page.wait_for_selector("#sliders:not([hidden])")
    dial = seen.page.locator("#sliders input[type=range]").first
    dimension = int(dial.get_attribute("data-dimension") or -1)
    assert float(dial.input_value()) == pytest.approx(mean[dimension], abs=0.01)


def test_samples_follow_the_seed(look: Look) -> None:
    seen = look(at="#samples")
    seen.page.wait_for_selector(".grid button >> nth=35")
    seen.page.fill("#samples input >> nth=0", "5")
    seen.page.fill("#samples input >> nth=1", "77")
    seen.page.fill("#samples input >> nth=2", "0.8")
    seen.page.click("#samples button.main")
    expect(seen.page.locator(".grid button")).to_have_count(5)
    query = "sample?n=5&seed=77&temperature=0.8"
    outputs = seen.ask(query).json()["outputs"]
    for i in (0, 4):
        shown = pixels(seen, f".grid button >> nth={i} >> canvas")
        assert np.abs(shown - np.round(255 * np.array(outputs[i]))).max() <= 1
    with seen.page.expect_download() as download:
        seen.page.click("#samples >> text=PNG")
    assert Path(download.value.path()).read_bytes() == seen.ask(f"{query}&format=png").content
    with seen.page.expect_download() as download:
        seen.page.click("#samples >> text=npz")
    with np.load(download.value.path()) as file:
        np.testing.assert_allclose(file["outputs"], outputs, atol=1e-6)
    seen.page.click(".grid button >> nth=2")
    seen.page.wait_for_selector("#inspection[aria-busy=false] >> text=sample 3 of seed 77")
    assert seen.inspected() == pytest.approx(scored(seen, [outputs[2]]), rel=1e-6)


def test_the_card_shows_the_model_and_the_load(look: Look) -> None:
    seen = look(at="#card")
    card = seen.ask("model").json()
    seen.page.wait_for_selector("#card >> text=Requests per second")
    text = seen.page.inner_text("#card")
    for fact in (card["digest"][:12], f"{card['weights']:,}", card["training"]["dataset"], card["version"], "p99, ms"):
        assert fact in text


def test_learning_curves_and_warnings(look: Look, address: Callable[..., str]) -> None:
    where = address("fashion-mnist-mlp")
    card, gallery = (httpx2.get(f"{where}/{path}").json() for path in ("model", "model/gallery"))
    gallery["learning"] = [
        {"epoch": epoch, "free_energy": 100 + 5 * abs(epoch - 3), "train_free_energy": 100 - epoch}
        for epoch in range(1, 11)
    ]
    card["warnings"] = [
        {"code": "collapsed_latent", "title": "The latent has collapsed", "text": "Train longer."},
        {"code": "not_calibrated", "title": "The model is not calibrated", "text": "Run vae calibrate."},
    ]
    seen = look(at="#card", answers={"model": card, "model/gallery": gallery})
    assert seen.page.locator("#card svg[aria-label*='over the epochs'] polyline").count() == 2
    assert seen.page.locator("#card .warn").all_inner_texts() == [
        "The latent has collapsed. Train longer.",
        "The model is not calibrated. Run vae calibrate.",
    ]


def test_samples_of_a_label(look: Look, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "labelled", build("grey-conv-flow"), Card(name="labelled", created="2026-01-01"))
    seen = look(tmp_path / "labelled", at="#samples")
    choice = seen.page.get_by_label("Label")
    assert choice.locator("option").all_inner_texts() == ["any", *CLASSES]
    with seen.page.expect_response(re.compile(r"/sample\?.*label=dog")) as answered:
        choice.select_option("dog")
        seen.page.click("#samples button.main")
    assert answered.value.json()["labels"] == ["dog"] * 36
    seen.page.click("#samples .grid button >> nth=2")
    seen.page.wait_for_selector("#inspection[aria-busy=false] >> text=sample 3 of seed 0, dog")
    assert_accessible(seen)
    plain = look(at="#samples")
    plain.page.wait_for_selector("#samples .grid button")
    assert not plain.page.get_by_label("Label").count()
