"""The latent map in a real browser, by mouse and by keys."""

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.app.explorer.seen import BOOT, Look, Seen, pixels, scored
from tests.support.data import Floats


def shown_points(seen: Seen) -> Floats:
    """Coordinates of the inputs on the map that is shown first."""
    return np.array(seen.ask("model/gallery").json()["embedding"]["coordinates"])


def screen_position(seen: Seen, at: Floats, points: Floats) -> tuple[float, float]:
    """Screen position of coordinates on the map that has these points."""
    box = seen.page.locator(".plane > canvas").bounding_box()
    assert box is not None
    low, high = points.min(0), points.max(0)
    unit = 0.94 * min(box["width"] / (high - low)[0], box["height"] / (high - low)[1])
    offset = (at - (low + high) / 2) * unit
    return box["x"] + box["width"] / 2 + offset[0], box["y"] + box["height"] / 2 - offset[1]


def position(seen: Seen, index: int) -> tuple[float, float]:
    """Screen position of a point of the map."""
    points = shown_points(seen)
    return screen_position(seen, points[index], points)


def projected(seen: Seen, x: Any) -> tuple[float, float]:
    """Canvas position of an input that is not in the gallery."""
    mean = seen.ask("encode", {"inputs": x.tolist()}).json()["mean"]
    at = np.array(seen.ask("model/gallery/place", {"latents": mean}).json()["embedding"][0])
    box = seen.page.locator(".plane > canvas").bounding_box()
    assert box is not None
    left, down = screen_position(seen, at, shown_points(seen))
    return left - box["x"], down - box["y"]


def isolated(seen: Seen, count: int) -> list[int]:
    """The points farthest from all others, so that a pointer hits only one."""
    points = shown_points(seen)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    return [int(i) for i in np.argsort(-distance.min(1))[:count]]


def test_a_point_has_a_tip_and_is_inspected_on_click(look: Look) -> None:
    seen = look()
    gallery = seen.ask("model/gallery").json()
    (index,) = isolated(seen, 1)
    seen.page.mouse.move(*position(seen, index))
    tip = seen.page.locator(".tip")
    tip.wait_for()
    label = gallery["label_names"][gallery["labels"][index]]
    assert label in tip.inner_text()
    seen.page.wait_for_selector(".tip canvas")
    seen.page.mouse.click(*position(seen, index))
    seen.page.wait_for_selector(f"#inspection[aria-busy=false] >> text=Input: {label}")
    given = seen.ask(f"model/gallery/input?index={index}").json()["inputs"]
    assert seen.inspected() == pytest.approx(scored(seen, given), rel=1e-6)
    # The map and the inspector show the same score.
    assert seen.inspected() == pytest.approx(gallery["scores"]["free_energy"][index], rel=1e-4)
    thumbnail = pixels(seen, "#inspection canvas[aria-label*='as the model sees']")
    np.testing.assert_array_equal(thumbnail, np.round(255 * np.array(given[0])).astype(np.uint8))
    # A cross marks an inspected input that is not a point of the map.
    seen.page.mouse.move(5, 5)
    before = pixels(seen, ".plane > canvas")
    seen.page.set_input_files("input[aria-label='Open an image']", BOOT)
    status = "Inspected, marked by a cross: ankle-boot.png."
    expect(seen.page.locator("#map p[aria-live]")).to_have_text(status)
    # The canvas is painted in the next frame.
    seen.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    changed = np.argwhere(pixels(seen, ".plane > canvas") != before)
    x, y = projected(seen, np.asarray(Image.open(BOOT).convert("L"))[None] / 255)
    left, right = position(seen, index)
    near_cross = np.abs(changed - (y, x)).max(axis=1) < 14
    box = seen.page.locator(".plane > canvas").bounding_box()
    assert box is not None
    near_ring = np.abs(changed - (right - box["y"], left - box["x"])).max(axis=1) < 20
    assert near_cross.sum() > 50
    assert (near_cross | near_ring).all()


def test_a_drag_from_point_to_point_interpolates(look: Look) -> None:
    seen = look(reduced_motion="reduce")
    first, second = isolated(seen, 2)
    start, end = position(seen, first), position(seen, second)
    seen.page.mouse.move(*start)
    seen.page.mouse.down()
    for share in (0.3, 0.7, 1.0):
        seen.page.mouse.move(*(a + share * (b - a) for a, b in zip(start, end, strict=True)))
    seen.page.mouse.up()
    seen.page.wait_for_selector("section[aria-label='Interpolation']")
    means = [seen.ask(f"model/gallery/input?index={i}").json()["mean"][0] for i in (first, second)]
    ends = np.array(seen.ask("decode", {"latents": means}).json()["outputs"])
    kinds = {"prior": "along the prior", "latent": "straight"}
    middle = []
    for along, kind in kinds.items():
        assert seen.page.locator(f"button[aria-label$='of the interpolation, {kind}']").count() == 24
        path = f"interpolate?of=latents&along={along}&steps=24"
        outputs = np.array(seen.ask(path, {"latents": means}).json()["outputs"])
        for frame, expected in ((1, ends[0]), (12, outputs[11]), (24, ends[1])):
            shown = pixels(seen, f"button[aria-label='Inspect frame {frame} of the interpolation, {kind}'] canvas")
            assert np.abs(shown - np.round(255 * expected)).max() <= 1
        middle.append(outputs[11])
    assert (middle[0] != middle[1]).any(), "both interpolations are equal"
    seen.page.fill("input[aria-label='Position on the interpolation']", "23")
    assert np.abs(pixels(seen, "canvas[aria-label='Interpolation: Straight']") - np.round(255 * ends[1])).max() <= 1


@pytest.mark.parametrize("start", ["i", "w"])
def test_the_map_by_keyboard(start: str, look: Look) -> None:
    seen = look()
    seen.page.focus(".plane > canvas")
    for key in ("ArrowRight", "ArrowUp", "Enter"):
        seen.page.keyboard.press(key)
    seen.page.wait_for_selector("#map p[aria-live]:has-text('Inspected')")
    for key in (start, "ArrowLeft", "ArrowLeft", start):
        seen.page.keyboard.press(key)
    seen.page.wait_for_selector("section[aria-label='Interpolation']")


def test_the_map_zooms_and_pans(look: Look) -> None:
    seen = look()
    (index,) = isolated(seen, 1)
    x, y = position(seen, index)
    seen.page.mouse.move(x, y)
    seen.page.mouse.wheel(0, -600)
    seen.page.mouse.move(x + 1, y)
    seen.page.locator(".tip").wait_for()  # zooming keeps the position under the pointer
    before = seen.page.locator(".tip").inner_text()
    seen.page.click("text=Zoom out" if seen.page.locator("text=Zoom out").count() else "button[aria-label='Zoom out']")
    seen.page.click("#map button:has-text('Show all')")
    seen.page.mouse.move(x, y)
    assert seen.page.locator(".tip").inner_text() == before


def test_colours_of_a_score_have_a_scale(look: Look) -> None:
    seen = look()
    gallery = seen.ask("model/gallery").json()
    assert seen.page.locator("#map .legend li").count() == len(set(gallery["labels"]))
    seen.page.get_by_label("Colour").select_option("free_energy")
    low, high = re.findall(r"-?[\d,.]+", seen.page.inner_text("#map .legend li"))
    least, most = np.quantile(gallery["scores"]["free_energy"], [0.0, 1.0])
    assert least <= float(low.replace(",", "")) < float(high.replace(",", "")) <= most


def test_the_map_of_principal_components_is_there_too(look: Look) -> None:
    seen = look()
    gallery = seen.ask("model/gallery").json()
    caption = seen.page.locator("#map > p.small").last
    expect(caption).to_contain_text("t-SNE")
    before = pixels(seen, ".plane > canvas")
    seen.page.locator("#map select").first.select_option("Principal components")
    share = 100 * gallery["projection"]["explained"][0]
    expect(caption).to_contain_text(f"{share:.1f} %")
    seen.page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert (pixels(seen, ".plane > canvas") != before).any()
    points = np.array(gallery["projection"]["coordinates"])
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    index = int(distance.min(1).argmax())
    seen.page.mouse.click(*screen_position(seen, points[index], points))
    label = gallery["label_names"][gallery["labels"][index]]
    seen.page.wait_for_selector(f"#inspection[aria-busy=false] >> text=Input: {label}")
    assert seen.inspected() == pytest.approx(gallery["scores"]["free_energy"][index], rel=1e-4)
