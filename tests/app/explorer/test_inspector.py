"""The inspector in a real browser: the page shows what the service answers."""

import base64
import io
import re
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from tests.app.explorer.seen import BOOT, QUERY, Look, pixels, scored


def test_a_file_gets_the_scores_of_the_service(look: Look) -> None:
    seen = look()
    seen.inspected()
    seen.page.set_input_files("input[aria-label='Open an image']", BOOT)
    seen.page.wait_for_selector("#inspection[aria-busy=false] >> text=ankle-boot.png")
    headers = {"content-type": "image/png"}
    answer = httpx2.post(f"{seen.address}/{QUERY}", content=BOOT.read_bytes(), headers=headers).json()
    assert seen.inspected() == pytest.approx(answer["free_energy"][0], rel=1e-6)
    text = seen.page.inner_text("#inspection")
    # Histograms of both scores; the outlier score of the model comes first.
    assert seen.ask("model").json()["anomaly_score"] == "typicality"
    marks = seen.page.locator("#inspection svg .marked").all_text_contents()
    for name, words in zip(("typicality", "free_energy"), marks, strict=True):
        p_value = f"p\u00a0=\u00a0{answer['p_values'][name][0]:.2g}"
        assert p_value in words
        assert p_value in text
    entropy = seen.page.locator("#inspection svg:has-text('entropy') text.value").last
    assert float(entropy.text_content() or "") == pytest.approx(answer["entropy"][0], rel=1e-3)
    # One draw gives no tighter bound.
    assert "nlog P(x), tighter bound" not in (seen.page.text_content("#inspection") or "")
    boot = np.asarray(Image.open(BOOT).convert("L"))
    np.testing.assert_array_equal(pixels(seen, "#inspection canvas >> nth=0"), boot)
    seen.page.click("text=All scores as numbers")
    rows = dict(row.split("\t") for row in seen.page.inner_text("#inspection table").splitlines())
    assert float(rows["Distortion"].replace(",", "")) == pytest.approx(answer["distortion"][0], rel=1e-3)
    assert float(rows["Rate"].replace(",", "")) == pytest.approx(answer["rate"][0], rel=1e-3)


def test_an_extreme_score_is_at_the_edge_of_the_histogram(look: Look) -> None:
    seen = look()
    seen.inspected()
    before = seen.page.locator("#inspection svg rect.bar").first.get_attribute("width")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
    file = io.BytesIO()
    noise.save(file, "png")
    seen.page.set_input_files(
        "input[aria-label='Open an image']", {"name": "noise.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    seen.page.wait_for_selector("#inspection[aria-busy=false] >> text=noise.png")
    marks = seen.page.locator("#inspection svg .marked").all_text_contents()
    assert all(re.fullmatch(r"this input, p.*, far out at [\d,.]+ →", words) for words in marks), marks
    text = seen.page.inner_text("#rarity").replace("\u00a0", " ")
    assert text == (
        "The model finds this input unusual. Of 2,500 inputs not used in training, none is at least as untypical "
        "(p < 0.001); of 5,000 inputs not used in training, none has at least as high a free energy (p < 0.001)."
    )
    width = seen.page.locator("#inspection svg rect.bar").first.get_attribute("width")
    assert float(width or 0) > 0.6 * float(before or 1)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_dropped_and_pasted_images(way: str, look: Look) -> None:
    seen = look()
    seen.inspected()
    large = Image.open(BOOT).convert("RGB").resize((90, 60))
    file = io.BytesIO()
    large.save(file, "png")
    seen.page.evaluate(
        """([way, data]) => {
            const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
            const given = new DataTransfer();
            given.items.add(new File([bytes], 'wide.png', {type: 'image/png'}));
            const event = way === 'drop'
                ? new DragEvent('drop', {dataTransfer: given, bubbles: true, cancelable: true})
                : new ClipboardEvent('paste', {clipboardData: given, bubbles: true});
            document.querySelector('#inspector').dispatchEvent(event);
        }""",
        [way, base64.b64encode(file.getvalue()).decode()],
    )
    seen.page.wait_for_selector(
        f"#inspection[aria-busy=false] >> text={'wide.png' if way == 'drop' else 'the pasted image'}"
    )
    address, headers = f"{seen.address}/reconstruct?inputs=true", {"content-type": "image/png"}
    answer = httpx2.post(address, content=file.getvalue(), headers=headers).json()
    x = np.round(255 * np.array(answer["inputs"][0]))
    np.testing.assert_array_equal(pixels(seen, "#inspection canvas >> nth=0"), x)


def test_a_drawn_digit(look: Look) -> None:
    seen = look()
    seen.inspected()
    seen.page.click("#inspector button:has-text('Draw an image')")
    box = seen.page.locator(".draw canvas").bounding_box()
    assert box is not None
    seen.page.mouse.move(box["x"] + 110, box["y"] + 30)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + 112, box["y"] + 190, steps=8)
    seen.page.mouse.up()
    seen.page.wait_for_selector("#inspection[aria-busy=false] >> text=your drawing")
    drawn = pixels(seen, ".draw canvas")
    assert drawn.max() == 255
    np.testing.assert_array_equal(pixels(seen, "#inspection canvas >> nth=0"), drawn)
    assert seen.inspected() == pytest.approx(scored(seen, (drawn[None] / 255).tolist()), rel=1e-6)
    before = seen.page.get_attribute("#free-energy", "data-value") or ""
    # An empty board is an input too.
    seen.page.click(".draw >> text=Clear")
    empty = scored(seen, np.zeros((1, *drawn.shape)).tolist())
    expect(seen.page.locator("#free-energy")).not_to_have_attribute("data-value", before)
    assert seen.inspected() == pytest.approx(empty, rel=1e-6)
    assert pixels(seen, ".draw canvas").max() == pixels(seen, "#inspection canvas >> nth=0").max() == 0


@pytest.mark.parametrize("fails", [True, False])
def test_a_late_answer_is_ignored(fails: bool, look: Look) -> None:
    seen = look()
    seen.inspected()
    delayed: list[Route] = []

    def delay_the_first(route: Route) -> None:
        if delayed:
            route.fallback()
        else:
            delayed.append(route)

    seen.page.route(re.compile("reconstruct"), delay_the_first)
    seen.page.set_input_files("input[aria-label='Open an image']", BOOT)
    while not delayed:
        seen.page.wait_for_timeout(10)
    (late,) = delayed
    if fails:  # the late request fails after the next one was shown
        seen.page.click("text=Random held-out input")
        seen.page.wait_for_selector("#inspection[aria-busy=false]")
        late.fulfill(status=500, json={"detail": "it failed, late"})
    else:  # the late request is answered after the next one failed
        seen.page.set_input_files(
            "input[aria-label='Open an image']", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
        )
        seen.page.wait_for_selector("#alerts .alert")
        late.continue_()
    seen.page.wait_for_timeout(500)
    assert "ankle-boot.png" not in seen.page.inner_text("#inspection")
    assert seen.page.locator("#alerts .alert").count() == (0 if fails else 1)


def test_an_alert_stays_until_its_action_succeeds(look: Look) -> None:
    seen = look(at="#samples")
    seen.inspected()
    with seen.page.expect_response(re.compile("reconstruct")):
        seen.page.set_input_files(
            "input[aria-label='Open an image']", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
        )
    seen.page.wait_for_selector("#alerts .alert")
    seen.page.click("#samples button.main")
    seen.page.click("#tab-sliders")
    seen.page.wait_for_selector("#sliders canvas[data-shown]")
    assert seen.page.locator("#alerts .alert").count() == 1
    seen.page.set_input_files("input[aria-label='Open an image']", BOOT)
    expect(seen.page.locator("#alerts .alert")).to_have_count(0)


def test_errors_are_shown(look: Look, tmp_path: Path) -> None:
    seen = look(at="#samples")
    seen.page.wait_for_selector(".grid button")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    seen.page.set_input_files("input[aria-label='Open an image']", bad)
    alert = seen.page.wait_for_selector("#alerts .alert")
    assert alert is not None
    assert seen.page.inner_text("#shown") == "Still showing: "
    assert seen.page.get_attribute("#alerts", "role") == "alert"
    assert "image" in alert.inner_text()
    seen.page.click("#alerts >> text=Dismiss")
    assert not seen.page.locator("#alerts .alert").count()
    samples = re.compile(r"/sample\?")
    seen.page.route(samples, lambda route: route.abort())
    seen.page.click("#samples button.main")
    seen.page.wait_for_selector("#alerts >> text=does not answer")
    seen.page.unroute(samples)
    seen.page.click("#samples button.main")
    expect(seen.page.locator("#alerts .alert")).to_have_count(0)
