"""An exported folder works in a real browser, opened as a file and from a server.

The pixels that the page prepares equal Pillow's, bit for bit; its probabilities are
those of the network.
"""

import base64
import functools
import http.server
import io
import itertools
import threading

import numpy as np
import PIL
import pytest
from PIL import ExifTags, Image, ImageCms, PngImagePlugin
from tests.support.browser import OVERFLOW, PHONE, opened
from tests.support.npm_package import real_tarball
from tests.support.tiny_runs import tiny, untrained

from cnn_jax.data.images import Preprocessing, convert_images, read_image
from cnn_jax.inspection.draw.overlays import overlay
from cnn_jax.interop.export import program_of
from cnn_jax.interop.web import folder as web
from cnn_jax.interop.web.npm import RUNTIME

pytestmark = pytest.mark.usefixtures("compiled_once")
READY = '#answer[aria-busy="false"]'
TO_BYTES = "const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));"


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


# Preparing pictures


@pytest.fixture(scope="module")
def scripts(browser):
    """Opens an empty page with prepare.js."""
    with opened(browser, "about:blank") as (page, problems):
        page.add_script_tag(path=web.PAGE / "prepare.js")
        yield page
        assert problems == []


# An image as text, which playwright transfers faster than an array.
AS_TEXT = "({ ...image, data: image.data.join(' ') })"


def pixels_of(image: dict) -> np.ndarray:
    return np.array(image["data"].split(), np.uint8).reshape(
        image["height"], image["width"], -1)


def options(prepared: Preprocessing) -> dict:
    return {"size": prepared.size, "shorter_side": prepared.shorter_side,
            "interpolation": prepared.interpolation}


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13,
                    reason="Pillow 13 changed the order of its two passes")
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_pixels_are_resized_as_pillow_does(scripts, interpolation):
    random = np.random.default_rng(0)
    cases = [(random.integers(0, 256, (*shape, channels), np.uint8),
              Preprocessing(size, channels, side, interpolation))
             for channels, (shape, size, side) in zip(itertools.cycle([1, 3, 3]),
                                                      itertools.product(
                 [(37, 53), (8, 8), (100, 31), (90, 333)],
                 [(28, 28), (31, 20), (64, 90)], [None, 40, 20]))]
    images = scripts.evaluate(f"""(cases) => cases.map(([content, shape, options]) => {{
        {TO_BYTES}
        const [height, width, channels] = shape;
        const image = prepare({{ height, width, channels, data: bytes }}, options);
        return {AS_TEXT};
    }})""", [[encoded(pixels.tobytes()), pixels.shape, options(prepared)]
             for pixels, prepared in cases])
    for (pixels, prepared), image in zip(cases, images, strict=True):
        np.testing.assert_array_equal(
            pixels_of(image), convert_images(pixels[None], prepared)[0],
            err_msg=f"{pixels.shape} {prepared}")


def saved(image: Image.Image, kind: str = "PNG", **fields) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **fields)
    return file.getvalue()


def picture_files() -> dict[str, bytes]:
    """Makes files of one smooth picture, [60, 90], in many formats and modes."""
    noise = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    image = Image.fromarray(noise).resize((90, 60), Image.Resampling.BICUBIC)
    grey = image.convert("L")
    alpha = Image.fromarray(
        np.linspace(0, 255, 90 * 60).reshape(60, 90).astype(np.uint8))
    clear, clear_grey = image.copy(), grey.copy()
    clear.putalpha(alpha)
    clear_grey.putalpha(alpha)
    gamma = PngImagePlugin.PngInfo()
    gamma.add(b"gAMA", (30_000).to_bytes(4, "big"))
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    return {
        "rgb": saved(image), "grey": saved(grey), "rgba": saved(clear),
        "la": saved(clear_grey), "palette": saved(image.quantize(64)),
        "palette with a clear colour": saved(image.quantize(64), transparency=3),
        "bits": saved(image.convert("1")), "gamma": saved(image, pnginfo=gamma),
        "16 bits": saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)),
        "profile": saved(image, icc_profile=profile), "bmp": saved(image, "BMP"),
        "webp": saved(image, "WEBP", lossless=True),
        "jpeg": saved(image, "JPEG", quality=95, subsampling=0),
        "turned": saved(image, "JPEG", quality=95, subsampling=0, exif=turned)}


FILES = picture_files()


@pytest.mark.parametrize("name", FILES)
def test_files_are_decoded_as_pillow_does(scripts, name):
    for channels in (1, 3):
        prepared = Preprocessing((28, 24), channels, 32)
        actual = pixels_of(scripts.evaluate(
            f"""async ([content, channels, options]) => {{
                {TO_BYTES}
                const image = prepare(
                  await decode(new Blob([bytes]), channels, 1e6), options);
                return {AS_TEXT};
            }}""", [encoded(FILES[name]), channels, options(prepared)]))
        expected = read_image(io.BytesIO(FILES[name]), prepared)
        # Decoders of JPEG may differ; on this smooth picture they do not differ much.
        limit = 3 if name in ("jpeg", "turned") else 1
        assert np.abs(actual.astype(int) - expected).max() <= limit


# The whole page


def run_of(network: str, shape, classes, **changes):
    config = tiny({"model.name": network, **changes.pop("config", {})})
    with config.unlocked():
        config.model.fields.update(changes)
    return untrained(config, shape, classes)


@pytest.fixture(scope="module")
def digits(browser, compiled_once, tmp_path_factory):
    """Exports a LeNet-5 with random parameters: (run, folder)."""
    real_tarball(RUNTIME)
    patch = pytest.MonkeyPatch()
    patch.setattr(web, "PART", 2**20)  # the runtime has several parts
    run = run_of("lenet5", (28, 28, 1), tuple("0123456789"))
    yield run, web.write_web(tmp_path_factory.mktemp("lenet5"), run)
    patch.undo()


@pytest.fixture
def requests(browser, monkeypatch):
    """Collects the address of every request of every page."""
    requests, new_context = [], browser.new_context

    def watched(**fields):
        context = new_context(**fields)
        context.on("request", lambda request: requests.append(request.url))
        return context

    monkeypatch.setattr(browser, "new_context", watched)
    return requests


def stays(requests: list[str], home: str) -> bool:
    """Tells whether every request was for the folder, or for data inside the page."""
    return bool(requests) and all(
        url.startswith((home, "data:", "blob:")) for url in requests)


def drop(page, name: str, content: bytes) -> None:
    """Drops a file onto the page, as a user does."""
    files = page.evaluate_handle(f"""([name, content]) => {{
        {TO_BYTES}
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], name));
        return transfer;
    }}""", [name, encoded(content)])
    page.dispatch_event("#answer", "drop", {"dataTransfer": files})
    page.wait_for_selector(READY)


def scores(page, content: bytes, invert: bool = False) -> list[float]:
    """Runs the page's network on a file."""
    return page.evaluate(f"""async ([content, invert]) => {{
        {TO_BYTES}
        const answer = await local.answer(new Blob([bytes]), {{ name: "it", invert }});
        return answer.scores;
    }}""", [encoded(content), invert])


def shown(page) -> dict[str, float]:
    """Reads the bars: {class: probability}, to 0.1 %."""
    names = page.locator("#classes .name").all_inner_texts()
    percents = page.locator("#classes .percent").all_inner_texts()
    return {name: float(text.removesuffix(" %")) / 100
            for name, text in zip(names, percents, strict=True)}


def seen(page) -> np.ndarray:
    """Decodes the picture that the network saw, uint8 [H, W, 3]."""
    address = page.locator("#seen").get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(
        address.removeprefix("data:image/png;base64,")))).convert("RGB"))


def probabilities(run, pixels: np.ndarray) -> np.ndarray:
    return program_of(run)(pixels[None])[0]


def assert_best_five(page, expected: np.ndarray) -> None:
    bars = shown(page)
    best = np.argsort(-expected, kind="stable")[:5]
    assert list(bars.values()) == pytest.approx(expected[best], abs=6e-4)
    name = page.inner_text("#classes .best .name")
    assert page.inner_text("#spoken").startswith(f"{name}: ")


def test_a_dropped_picture_is_answered_as_by_the_network(browser, requests, digits):
    run, folder = digits
    with opened(browser, (folder / "index.html").as_uri()) as (page, problems):
        page.wait_for_selector(READY)
        assert page.inner_text("#title") == "lenet5 on digits"
        assert "61,706 parameters" in page.inner_text("#run")
        drop(page, "square.png", FILES["rgba"])
        pixels = read_image(io.BytesIO(FILES["rgba"]), run.info.preprocessing)
        expected = probabilities(run, pixels)
        np.testing.assert_array_equal(seen(page)[..., :1], pixels)
        np.testing.assert_allclose(scores(page, FILES["rgba"]), expected, atol=1e-4)
        np.testing.assert_allclose(scores(page, FILES["rgba"], invert=True),
                                   probabilities(run, 255 - pixels), atol=1e-4)
        assert_best_five(page, expected)
        assert page.inner_text("#took").startswith("square.png: answered in ")
        page.check("#invert")
        page.wait_for_selector(READY)
        np.testing.assert_array_equal(seen(page)[..., :1], 255 - pixels)
        assert problems == [] and stays(requests, folder.as_uri())
        # Nothing could leave either.
        assert page.evaluate("fetch('data:,').then(() => 'left', () => 'blocked')"
                             ) == "blocked"


def test_a_digit_is_drawn_by_mouse_and_keyboard(browser, digits):
    run, folder = digits
    with opened(browser, (folder / "index.html").as_uri(), PHONE, "dark") as (
            page, problems):
        page.wait_for_selector(READY)
        assert page.evaluate(OVERFLOW) <= 0 and not page.is_visible("#pictures")
        box = page.locator("#canvas").bounding_box()
        page.mouse.move(box["x"] + 80, box["y"] + 60)
        page.mouse.down()
        page.mouse.move(box["x"] + 180, box["y"] + 220, steps=8)
        page.mouse.up()
        page.wait_for_selector(READY)
        first = seen(page)
        assert first.shape == (28, 28, 3) and first.max() == 255
        assert_best_five(page, probabilities(run, first[..., :1]))
        page.focus("#canvas")
        page.keyboard.press("Space")
        for _ in range(6):
            page.keyboard.press("ArrowUp")
        page.wait_for_selector(READY)
        assert seen(page).sum() > first.sum()
        page.keyboard.press("Delete")
        assert page.inner_text("#spoken") == "Nothing drawn yet."
        for name in ("file", "clear", "pen", "invert"):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == name
        assert page.evaluate(OVERFLOW) <= 0 and problems == []


def test_it_works_from_a_server_and_reports_problems(browser, requests, digits):
    _, folder = digits

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        with opened(browser, home) as (page, problems):
            page.wait_for_selector(READY)
            drop(page, "square.png", FILES["grey"])
            before = shown(page)
            assert len(before) == 5
            drop(page, "notes.txt", b"hello")
            assert "notes.txt" in page.inner_text("#problem") and shown(page) == before
            page.evaluate("about.max_pixels = 100")
            drop(page, "large.png", FILES["grey"])
            assert "large.png has 90 × 60 pixels" in page.inner_text("#problem")
            assert problems == [] and stays(requests, home)
        server.shutdown()


def test_a_part_that_is_missing_is_named(browser, digits, tmp_path):
    _, folder = digits
    for path in folder.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with opened(browser, (tmp_path / "index.html").as_uri()) as (page, _):
        page.wait_for_selector("#problem", state="visible")
        assert "runtime.mjs.0.js" in page.inner_text("#problem")


@pytest.mark.slow
def test_all_classes_above_one_half_are_named(browser, tmp_path):
    real_tarball(RUNTIME)
    run = run_of("lenet5", (32, 32, 3), tuple("abcdefgh"),
                 config={"data.name": "shapes_multilabel"})
    run.variables["params"]["head"]["bias"] += 2  # many are probable
    folder = web.write_web(tmp_path, run)
    with opened(browser, (folder / "index.html").as_uri()) as (page, problems):
        page.wait_for_selector(READY)
        drop(page, "it.png", FILES["rgb"])
        pixels = read_image(io.BytesIO(FILES["rgb"]), run.info.preprocessing)
        expected = probabilities(run, pixels)
        np.testing.assert_allclose(scores(page, FILES["rgb"]), expected, atol=1e-4)
        named = [text.split(":")[0] for text in page.inner_text("#spoken").split(", ")]
        assert named == [run.info.class_names[i] for i in np.argsort(-expected)
                         if expected[i] > 0.5] and len(named) > 5
        assert len(shown(page)) == max(5, len(named)) and problems == []


@pytest.mark.slow
def test_masks_are_drawn_over_the_picture(browser, tmp_path):
    real_tarball(RUNTIME)
    names = ("background", "circle", "rectangle", "triangle", "diamond", "line")
    run = run_of("shapes_fcn", (32, 32, 3), names, widths=(4, 8),
                 config={"data.name": "shapes_segmentation"})
    folder = web.write_web(tmp_path, run)
    with opened(browser, (folder / "index.html").as_uri(), PHONE) as (page, problems):
        page.wait_for_selector(READY)
        drop(page, "it.png", FILES["rgb"])
        pixels = read_image(io.BytesIO(FILES["rgb"]), run.info.preprocessing)
        mask = probabilities(run, pixels).argmax(-1)
        address = page.locator("#mask").get_attribute("src")
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(
            address.removeprefix("data:image/png;base64,")))).convert("RGB"))
        difference = np.abs(drawn.astype(int) - overlay(pixels, mask)).max(-1)
        assert np.mean(difference <= 1) > 0.99  # ties may give another class
        shares = np.bincount(mask.ravel(), minlength=6) / mask.size
        np.testing.assert_allclose(scores(page, FILES["rgb"]), shares, atol=0.01)
        assert page.locator("#classes .swatch").count() == 5
        assert page.evaluate(OVERFLOW) <= 0 and problems == []
