"""One input under the glass, in a real browser: what the page says is what the interface answers."""

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


def test_a_file_is_scored_as_the_interface_scores_it(look: Look) -> None:
    seen = look()
    seen.under_the_glass()
    seen.page.set_input_files("input[aria-label='Open a picture']", BOOT)
    seen.page.wait_for_selector("#under[aria-busy=false] >> text=ankle-boot.png")
    headers = {"content-type": "image/png"}
    answer = httpx2.post(f"{seen.address}/{QUERY}", content=BOOT.read_bytes(), headers=headers).json()
    assert seen.under_the_glass() == pytest.approx(answer["free_energy"][0], rel=1e-6)
    text = seen.page.inner_text("#under")
    # Free energies and typicalities, each among those of held-out inputs; first the one that tells outliers.
    assert seen.ask("model").json()["anomaly_score"] == "typicality"
    marked = seen.page.locator("#under svg .marked").all_text_contents()
    for name, words in zip(("typicality", "free_energy"), marked, strict=True):
        rare = f"p\u00a0=\u00a0{answer['p_values'][name][0]:.2g}"
        assert rare in words
        assert rare in text
    entropy = seen.page.locator("#under svg:has-text('entropy') text.value").last
    assert float(entropy.text_content() or "") == pytest.approx(answer["entropy"][0], rel=1e-3)
    # One draw makes no bound that is nearer.
    assert "nlog P(x), closer" not in (seen.page.text_content("#under") or "")
    np.testing.assert_array_equal(pixels(seen, "#under canvas >> nth=0"), np.asarray(Image.open(BOOT).convert("L")))
    seen.page.click("text=All of it as numbers")
    rows = dict(row.split("\t") for row in seen.page.inner_text("#under table").splitlines())
    assert float(rows["Distortion"].replace(",", "")) == pytest.approx(answer["distortion"][0], rel=1e-3)
    assert float(rows["Rate"].replace(",", "")) == pytest.approx(answer["rate"][0], rel=1e-3)


def test_what_is_far_out_is_said_to_be_and_does_not_crush_the_rest(look: Look) -> None:
    seen = look()
    seen.under_the_glass()
    before = seen.page.locator("#under svg rect.bar").first.get_attribute("width")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8))
    file = io.BytesIO()
    noise.save(file, "png")
    seen.page.set_input_files(
        "input[aria-label='Open a picture']", {"name": "noise.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    seen.page.wait_for_selector("#under[aria-busy=false] >> text=noise.png")
    said = seen.page.locator("#under svg .marked").all_text_contents()
    assert all(re.fullmatch(r"this input, p.*, far out at [\d,.]+ →", words) for words in said), said
    told = seen.page.inner_text("#verdict").replace("\u00a0", " ")
    assert told == (
        "The model finds this input unusual. Of 2,500 inputs that it was not fitted to, none is as untypical "
        "(p < 0.001); of 5,000 inputs that it was not fitted to, none costs as much or more (p < 0.001)."
    )
    width = seen.page.locator("#under svg rect.bar").first.get_attribute("width")
    assert float(width or 0) > 0.6 * float(before or 1)


@pytest.mark.parametrize("way", ["drop", "paste"])
def test_a_picture_that_is_dropped_or_pasted(way: str, look: Look) -> None:
    seen = look()
    seen.under_the_glass()
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
            document.querySelector('#glass').dispatchEvent(event);
        }""",
        [way, base64.b64encode(file.getvalue()).decode()],
    )
    seen.page.wait_for_selector(
        f"#under[aria-busy=false] >> text={'wide.png' if way == 'drop' else 'the pasted picture'}"
    )
    address, headers = f"{seen.address}/reconstruct?inputs=true", {"content-type": "image/png"}
    answer = httpx2.post(address, content=file.getvalue(), headers=headers).json()
    np.testing.assert_array_equal(pixels(seen, "#under canvas >> nth=0"), np.round(255 * np.array(answer["inputs"][0])))


def test_a_digit_that_is_drawn(look: Look) -> None:
    seen = look()
    seen.under_the_glass()
    seen.page.click("#glass button:has-text('Draw one')")
    box = seen.page.locator(".draw canvas").bounding_box()
    assert box is not None
    seen.page.mouse.move(box["x"] + 110, box["y"] + 30)
    seen.page.mouse.down()
    seen.page.mouse.move(box["x"] + 112, box["y"] + 190, steps=8)
    seen.page.mouse.up()
    seen.page.wait_for_selector("#under[aria-busy=false] >> text=your drawing")
    drawn = pixels(seen, ".draw canvas")
    assert drawn.max() == 255
    np.testing.assert_array_equal(pixels(seen, "#under canvas >> nth=0"), drawn)
    assert seen.under_the_glass() == pytest.approx(scored(seen, (drawn[None] / 255).tolist()), rel=1e-6)
    before = seen.page.get_attribute("#free-energy", "data-value") or ""
    # What is under the glass is what the board shows, an empty one too.
    seen.page.click(".draw >> text=Clear")
    empty = scored(seen, np.zeros((1, *drawn.shape)).tolist())
    expect(seen.page.locator("#free-energy")).not_to_have_attribute("data-value", before)
    assert seen.under_the_glass() == pytest.approx(empty, rel=1e-6)
    assert pixels(seen, ".draw canvas").max() == pixels(seen, "#under canvas >> nth=0").max() == 0


@pytest.mark.parametrize("fails", [True, False])
def test_what_comes_late_is_of_no_interest_any_more(fails: bool, look: Look) -> None:
    seen = look()
    seen.under_the_glass()
    held: list[Route] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.fallback()
        else:
            held.append(route)

    seen.page.route(re.compile("reconstruct"), hold_the_first)
    seen.page.set_input_files("input[aria-label='Open a picture']", BOOT)
    while not held:
        seen.page.wait_for_timeout(10)
    (late,) = held
    if fails:  # the late one fails, when the next has been shown
        seen.page.click("text=Pick a held-out one")
        seen.page.wait_for_selector("#under[aria-busy=false]")
        late.fulfill(status=500, json={"detail": "it failed, late"})
    else:  # the late one is answered, when the next has failed
        seen.page.set_input_files(
            "input[aria-label='Open a picture']", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
        )
        seen.page.wait_for_selector("#alerts .alert")
        late.continue_()
    seen.page.wait_for_timeout(500)
    assert "ankle-boot.png" not in seen.page.inner_text("#under")
    assert seen.page.locator("#alerts .alert").count() == (0 if fails else 1)


def test_an_alert_stays_until_the_same_succeeds(look: Look) -> None:
    seen = look(at="#samples")
    seen.under_the_glass()
    with seen.page.expect_response(re.compile("reconstruct")):
        seen.page.set_input_files(
            "input[aria-label='Open a picture']", {"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}
        )
    seen.page.wait_for_selector("#alerts .alert")
    seen.page.click("#samples button.main")
    seen.page.click("#tab-sliders")
    seen.page.wait_for_selector("#sliders canvas[data-shown]")
    assert seen.page.locator("#alerts .alert").count() == 1
    seen.page.set_input_files("input[aria-label='Open a picture']", BOOT)
    expect(seen.page.locator("#alerts .alert")).to_have_count(0)


def test_what_fails_is_said(look: Look, tmp_path: Path) -> None:
    seen = look(at="#samples")
    seen.page.wait_for_selector(".grid button")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    seen.page.set_input_files("input[aria-label='Open a picture']", bad)
    alert = seen.page.wait_for_selector("#alerts .alert")
    assert alert is not None
    assert seen.page.inner_text("#here") == "Still here: "
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
