"""The page of --mode=serve works in a real browser: drawing, files, layers, errors."""

import base64
import io
import threading

import numpy as np
import pytest
import waitress
from tests.support.browser import DESK, OVERFLOW, PHONE, opened
from PIL import Image
from tests.support.tiny_runs import tiny, untrained

from cnn_jax.serve import app as serve
from cnn_jax.serve import server

pytestmark = pytest.mark.usefixtures("compiled_once")
READY = '#answer[aria-busy="false"]'


def started(app) -> str:
    """Serves a web application in a thread of this process; returns its address."""
    listener = server.listen("127.0.0.1", 0)
    running = waitress.create_server(app, sockets=[listener], threads=server.THREADS)
    threading.Thread(target=running.run, daemon=True).start()
    return server.address("127.0.0.1", listener)


@pytest.fixture(scope="module")
def digits(browser, compiled_once):
    """Serves the page of a LeNet-5 with random parameters.

    The browser fixture comes first, so that without a browser nothing is compiled.
    """
    run = untrained(tiny({"model.name": "lenet5"}), (28, 28, 1), tuple("0123456789"))
    return started(serve.create_app(run, "untrained"))


def stroke(page, *points) -> None:
    """Draws with the mouse along points, given as fractions of the canvas."""
    box = page.locator("#canvas").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"])
              for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=4)
    page.mouse.up()
    page.wait_for_selector(READY)


def probabilities(page) -> list[float]:
    return [float(text.removesuffix(" %")) / 100
            for text in page.locator("#classes .percent").all_inner_texts()]


def pictures(page, selector: str) -> list[str]:
    """Returns the addresses of the images shown there, once all are decoded."""
    images = page.locator(selector)
    widths = images.evaluate_all("images => images.map(i => i.naturalWidth)")
    assert widths and all(widths)
    return images.evaluate_all("images => images.map(i => i.src)")


def picture(colour: int = 200) -> bytes:
    """Makes a PNG file of a bright square on black."""
    pixels = np.zeros((40, 40), np.uint8)
    pixels[10:25, 5:30] = colour
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def decoded(address: str) -> np.ndarray:
    """Decodes the pixels of a data: address."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(
        address.removeprefix("data:image/png;base64,")))))


def drop(page, name: str, content: bytes, zeros: int = 0) -> None:
    """Drops a file onto the page; `zeros` zero bytes follow its content."""
    files = page.evaluate_handle("""([name, content, zeros]) => {
        const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes, new Uint8Array(zeros)], name));
        return transfer;
    }""", [name, base64.b64encode(content).decode(), zeros])
    page.dispatch_event("#answer", "drop", {"dataTransfer": files})
    page.wait_for_selector(READY)


@pytest.mark.parametrize("width,colours", [
    (PHONE, "dark"), pytest.param(DESK, "light", marks=pytest.mark.slow)])
def test_a_stroke_is_answered_live(browser, digits, width, colours):
    with opened(browser, digits, width, colours) as (page, problems):
        page.wait_for_selector(READY)
        assert page.inner_text("#title") == "lenet5 on digits"
        assert page.evaluate(OVERFLOW) <= 0
        assert not page.is_visible("#pictures")
        stroke(page, (0.3, 0.2), (0.7, 0.2), (0.4, 0.9))
        first = probabilities(page)
        assert len(first) == 10 and abs(sum(first) - 1) < 0.006
        best = page.inner_text("#classes .best .name")
        assert page.inner_text("#spoken").startswith(f"{best}: ")
        assert float(best) == np.argmax(first)
        seen, cam = pictures(page, "#pictures img:visible")
        assert page.get_attribute("#cam", "alt").startswith("Grad-CAM of conv2 for ")
        assert len(pictures(page, "#maps img")) == 16
        stroke(page, (0.1, 0.5), (0.9, 0.5))
        assert pictures(page, "#pictures img:visible")[0] != seen
        assert page.evaluate(OVERFLOW) <= 0
        assert problems == []


def test_layer_and_class_change_what_is_shown(browser, digits):
    with opened(browser, digits) as (page, problems):
        page.wait_for_selector(READY)
        stroke(page, (0.3, 0.2), (0.7, 0.2), (0.4, 0.9))
        maps, (cam,) = pictures(page, "#maps img"), pictures(page, "#cam")
        before = probabilities(page)
        page.select_option("#class", label="7")
        page.wait_for_selector(READY)
        assert "“7”" in page.inner_text("#cam-caption")
        other, = pictures(page, "#cam")
        assert other != cam and pictures(page, "#maps img") == maps
        page.select_option("#layer", "conv1")
        page.wait_for_selector(READY)
        assert len(pictures(page, "#maps img")) == 6
        assert "6 maps of 28 × 28" in page.inner_text("#range")
        assert pictures(page, "#cam") != [other]
        assert probabilities(page) == before
        assert problems == []


def test_the_most_probable_of_many_classes_come_first(browser, compiled_once):
    names = tuple(f"{word} {i}" for i in range(20) for word in ("zebra", "ape"))
    run = untrained(tiny({"model.name": "lenet5"}), (28, 28, 1), names)
    with opened(browser, started(serve.create_app(run, "untrained"))) as (page,
                                                                          problems):
        page.wait_for_selector(READY)
        assert page.locator("#classes li").count() == 0
        offered = page.locator("#class option")
        assert offered.all_inner_texts() == ["the most probable", *sorted(names, key=(
            lambda name: (name.split()[0], name.split()[1])))]
        stroke(page, (0.3, 0.2), (0.7, 0.2), (0.4, 0.9))
        best = page.locator("#classes .name").all_inner_texts()
        assert len(best) == 10
        assert offered.all_inner_texts()[1:11] == best and offered.count() == 51
        page.select_option("#class", label=best[3])
        page.wait_for_selector(READY)
        assert f"“{best[3]}”" in page.inner_text("#cam-caption")
        assert page.locator("#class option:checked").inner_text() == best[3]
        assert problems == []


def test_files_are_chosen_dropped_and_drawn_on(browser, digits, tmp_path):
    file = tmp_path / "square.png"
    file.write_bytes(picture())
    with opened(browser, digits) as (page, problems):
        page.wait_for_selector(READY)
        page.set_input_files("#file", file)
        page.wait_for_selector(READY)
        chosen, (seen,) = probabilities(page), pictures(page, "#seen")
        assert page.inner_text("#took").startswith("square.png: answered in ")
        page.check("#invert")
        page.wait_for_selector(READY)
        assert probabilities(page) != chosen and pictures(page, "#seen") != [seen]
        page.uncheck("#invert")
        page.click("#clear")
        assert page.inner_text("#spoken") == "Nothing drawn yet."
        assert not page.is_visible("#pictures") and not page.is_visible("#maps")
        drop(page, "square.png", picture())
        assert probabilities(page) == chosen and pictures(page, "#seen") == [seen]
        stroke(page, (0.9, 0.8), (0.9, 0.9))  # on the picture, which stays
        seen = decoded(pictures(page, "#seen")[0])
        assert abs(int(seen[12, 10]) - 200) < 3  # the square
        assert seen[24, 25] > 150 and seen[24, 3] == 0
        assert problems == []


@pytest.mark.parametrize("content,zeros,words", [
    (b"hello", 0, "cannot be read as a picture"),
    pytest.param(picture()[:60], 0, "cannot be read", marks=pytest.mark.slow),
    (b"", serve.MAX_BYTES + 1, "the limit is 20,971,520")],
    ids=["text", "truncated", "large"])
def test_a_bad_file_is_reported_and_the_answer_stays(browser, digits, content, zeros,
                                                     words):
    with opened(browser, digits) as (page, problems):
        page.wait_for_selector(READY)
        stroke(page, (0.3, 0.2), (0.7, 0.2), (0.4, 0.9))
        before = probabilities(page)
        page.evaluate("window.still = true")
        drop(page, "notes.txt", content, zeros)
        told = page.inner_text("#problem")
        assert page.is_visible("#problem") and "notes.txt" in told and words in told
        assert page.get_attribute("#problem", "role") == "alert"
        assert page.evaluate("window.still")  # the browser did not leave for the file
        page.select_option("#layer", "conv1")  # of the drawing
        page.wait_for_selector(READY)
        assert not page.is_visible("#problem") and probabilities(page) == before
        assert not [text for text in problems if "400" not in text], problems


def test_a_stopped_server_is_reported(browser, digits):
    with opened(browser, digits) as (page, _):
        page.wait_for_selector(READY)
        page.route("**/answer?*", lambda route: route.abort())
        stroke(page, (0.3, 0.2), (0.7, 0.2))
        assert "is it still running?" in page.inner_text("#problem")


def test_drawing_by_keyboard(browser, digits):
    with opened(browser, digits, PHONE) as (page, problems):
        page.wait_for_selector(READY)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "canvas"
        page.keyboard.press("ArrowLeft")
        assert page.inner_text("#spoken") == "Nothing drawn yet."  # the pen is up
        page.keyboard.press("Space")
        for _ in range(8):
            page.keyboard.press("ArrowDown")
        page.wait_for_selector(READY)
        assert abs(sum(probabilities(page)) - 1) < 0.006
        assert page.is_visible("#cursor")
        page.keyboard.press("Delete")
        assert not page.is_visible("#cursor")
        page.keyboard.press("ArrowUp")  # the pen is up again
        assert page.inner_text("#spoken") == "Nothing drawn yet."
        for name in ("clear", "pen", "file", "invert", "layer", "class"):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == name
        assert problems == []


def test_a_finger_draws_and_does_not_scroll(browser, digits):
    with opened(browser, digits, PHONE) as (page, problems):
        page.wait_for_selector(READY)
        box = page.locator("#canvas").bounding_box()
        tool = page.context.new_cdp_session(page)

        def touch(kind, *points):
            tool.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [
                {"x": box["x"] + x, "y": box["y"] + y} for x, y in points]})

        tool.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
        touch("touchStart", (50, 200))
        for y in range(200, 20, -20):
            touch("touchMove", (60, y))
        touch("touchEnd")
        page.wait_for_selector("#pictures", state="visible")
        page.wait_for_selector(READY)
        assert page.evaluate("window.scrollY") == 0
        drawn = decoded(page.evaluate("document.getElementById('canvas').toDataURL()"))
        x, *ys = (round(place * len(drawn) / box["height"]) for place in (
            60, 40, 100, 180))
        assert np.all(drawn[ys, x] == 255) and np.all(drawn[ys, 4 * x, :3] == 0)
        assert problems == []


def test_masks_are_shown_over_the_picture(browser):
    config = tiny({"model.name": "shapes_fcn", "data.name": "shapes_segmentation"})
    with config.unlocked():
        config.model.fields.widths = (4, 8)
    names = ("background", "circle", "rectangle", "triangle", "diamond", "line")
    address = started(serve.create_app(untrained(config, (32, 32, 3), names), "shapes"))
    with opened(browser, address, PHONE) as (page, problems):
        page.wait_for_selector(READY)
        page.fill("#ink", "#ff0000")  # a network that sees colours
        stroke(page, (0.3, 0.3), (0.7, 0.7))
        assert page.locator("#classes .swatch").count() == 6
        assert abs(sum(probabilities(page)) - 1) < 0.006
        assert len(pictures(page, "#pictures img:visible")) == 3
        assert page.get_attribute("#mask", "alt").startswith("The picture with its ")
        assert list(decoded(pictures(page, "#seen")[0])[16, 16]) == [255, 0, 0]
        assert page.evaluate(OVERFLOW) <= 0
        assert problems == []
