"""The latent map in a real browser, by mouse and by keys."""

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.app.explorer.seen import BOOT, Look, Seen, pixels, scored


def place(seen: Seen, index: int) -> tuple[float, float]:
    """Where on the screen a point of the map is, as the map itself lays its points out."""
    points = np.array(seen.ask("model/gallery").json()["projection"]["coordinates"])
    box = seen.page.locator(".plane > canvas").bounding_box()
    assert box is not None
    low, high = points.min(0), points.max(0)
    unit = 0.94 * min(box["width"] / (high - low)[0], box["height"] / (high - low)[1])
    offset = (points[index] - (low + high) / 2) * unit
    return box["x"] + box["width"] / 2 + offset[0], box["y"] + box["height"] / 2 - offset[1]


def lies(seen: Seen, x: Any) -> tuple[float, float]:
    """Where on the canvas an input lies that is not of the gallery."""
    projection = seen.ask("model/gallery").json()["projection"]
    mean = np.array(seen.ask("encode", {"inputs": x.tolist()}).json()["mean"][0])
    at = np.array(projection["axes"]) @ (mean - projection["origin"])
    points = np.array(projection["coordinates"])
    low, high = points.min(0), points.max(0)
    box = seen.page.locator(".plane > canvas").bounding_box()
    assert box is not None
    unit = 0.94 * min(box["width"] / (high - low)[0], box["height"] / (high - low)[1])
    offset = (at - (low + high) / 2) * unit
    return box["width"] / 2 + offset[0], box["height"] / 2 - offset[1]


def alone(seen: Seen, count: int) -> list[int]:
    """Points with no other near them, so that a pointer means one."""
    points = np.array(seen.ask("model/gallery").json()["projection"]["coordinates"])
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return [int(i) for i in np.argsort(-distance.min(1))[:count]]


def test_the_map_shows_what_a_point_is_and_puts_it_under_the_glass(look: Look) -> None:
    seen = look()
    gallery = seen.ask("model/gallery").json()
    (index,) = alone(seen, 1)
    seen.page.mouse.move(*place(seen, index))
    tip = seen.page.locator(".tip")
    tip.wait_for()
    label = gallery["label_names"][gallery["labels"][index]]
    assert label in tip.inner_text()
    seen.page.wait_for_selector(".tip canvas")
    seen.page.mouse.click(*place(seen, index))
    seen.page.wait_for_selector(f"#under[aria-busy=false] >> text=Here: {label}")
    given = seen.ask(f"model/gallery/input?index={index}").json()["inputs"]
    assert seen.under_the_glass() == pytest.approx(scored(seen, given), rel=1e-6)
    # On the map and under the glass one input has one score.
    assert seen.under_the_glass() == pytest.approx(gallery["scores"]["free_energy"][index], rel=1e-4)
    thumbnail = pixels(seen, "#under canvas[aria-label*='as the model sees']")
    np.testing.assert_array_equal(thumbnail, np.round(255 * np.array(given[0])).astype(np.uint8))
    # What the map says is under the glass follows whatever is put there, and shows where the plane has it.
    seen.page.mouse.move(5, 5)
    before = pixels(seen, ".plane > canvas")
    seen.page.set_input_files("input[aria-label='Open a picture']", BOOT)
    said = "Under the glass, and marked by a cross: ankle-boot.png."
    expect(seen.page.locator("#map p[aria-live]")).to_have_text(said)
    # The canvas follows in the next frame.
    seen.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    changed = np.argwhere(pixels(seen, ".plane > canvas") != before)
    x, y = lies(seen, np.asarray(Image.open(BOOT).convert("L"))[None] / 255)
    left, right = place(seen, index)
    near_cross = np.abs(changed - (y, x)).max(axis=1) < 14
    box = seen.page.locator(".plane > canvas").bounding_box()
    assert box is not None
    near_ring = np.abs(changed - (right - box["y"], left - box["x"])).max(axis=1) < 20
    assert near_cross.sum() > 50
    assert (near_cross | near_ring).all()


def test_a_walk_from_one_point_to_another(look: Look) -> None:
    seen = look(reduced_motion="reduce")
    first, second = alone(seen, 2)
    start, end = place(seen, first), place(seen, second)
    seen.page.mouse.move(*start)
    seen.page.mouse.down()
    for share in (0.3, 0.7, 1.0):
        seen.page.mouse.move(*(a + share * (b - a) for a, b in zip(start, end, strict=True)))
    seen.page.mouse.up()
    seen.page.wait_for_selector("section[aria-label='The walk']")
    means = [seen.ask(f"model/gallery/input?index={i}").json()["mean"][0] for i in (first, second)]
    ends = np.array(seen.ask("decode", {"latents": means}).json()["outputs"])
    for way in ("straight", "spherical"):
        assert seen.page.locator(f"button[aria-label*='of the {way} way']").count() == 24
        for frame, expected in ((1, ends[0]), (24, ends[1])):
            shown = pixels(seen, f"button[aria-label='Open frame {frame} of the {way} way'] canvas")
            assert np.abs(shown - np.round(255 * expected)).max() <= 1
    middle = [
        pixels(seen, f"button[aria-label='Open frame 12 of the {way} way'] canvas") for way in ("straight", "spherical")
    ]
    assert (middle[0] != middle[1]).any(), "the two ways are one"
    seen.page.fill("input[aria-label='Place on the way']", "23")
    assert np.abs(pixels(seen, "canvas[aria-label='The straight way']") - np.round(255 * ends[1])).max() <= 1


def test_the_map_by_keys_alone(look: Look) -> None:
    seen = look()
    seen.page.focus(".plane > canvas")
    for key in ("ArrowRight", "ArrowUp", "Enter"):
        seen.page.keyboard.press(key)
    seen.page.wait_for_selector("#map p[aria-live]:has-text('Under the glass')")
    for key in ("w", "ArrowLeft", "ArrowLeft", "w"):
        seen.page.keyboard.press(key)
    seen.page.wait_for_selector("section[aria-label='The walk']")


def test_the_map_zooms_and_pans(look: Look) -> None:
    seen = look()
    (index,) = alone(seen, 1)
    x, y = place(seen, index)
    seen.page.mouse.move(x, y)
    seen.page.mouse.wheel(0, -600)
    seen.page.mouse.move(x + 1, y)
    seen.page.locator(".tip").wait_for()  # what is under the pointer stays there
    before = seen.page.locator(".tip").inner_text()
    seen.page.click("text=Zoom out" if seen.page.locator("text=Zoom out").count() else "button[aria-label='Zoom out']")
    seen.page.click("#map button:has-text('All')")
    seen.page.mouse.move(x, y)
    assert seen.page.locator(".tip").inner_text() == before


def test_colours_by_a_score_have_a_scale(look: Look) -> None:
    seen = look()
    gallery = seen.ask("model/gallery").json()
    assert seen.page.locator("#map .legend li").count() == len(set(gallery["labels"]))
    seen.page.select_option("#map select", "free_energy")
    low, high = re.findall(r"-?[\d,.]+", seen.page.inner_text("#map .legend li"))
    least, most = np.quantile(gallery["scores"]["free_energy"], [0.0, 1.0])
    assert least <= float(low.replace(",", "")) < float(high.replace(",", "")) <= most
