"""Opens every page of the built book in Chromium, on a phone and on a desk.

    python -m sphinx -q -W --keep-going -b html docs build/docs
    python -m pytest -q -n 0 -m slow tests/documents/test_book_pages.py

With `pip install axe-playwright-python`, axe-core also looks for faults of contrast,
labels and structure.
"""

import base64
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tests.support.browser import DESK, OVERFLOW, PHONE, opened

from cnn_jax import networks
from cnn_jax.ops.geometry import output_size, resolve_padding
from configs import lenet

BUILT = Path(__file__).parents[2] / "build" / "docs"
NAMES = sorted(str(path.relative_to(BUILT)) for path in BUILT.rglob("*.html")
               if path.parent.name != "_static")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not NAMES, reason="build/docs is missing: python -m sphinx builds it")]


def address(name: str) -> str:
    return (BUILT / name).as_uri()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_from_the_file_system(browser, name):
    for width, colours in ((PHONE, "dark"), (DESK, "light")):
        with opened(browser, address(name), width, colours) as (page, problems):
            assert page.title()
            assert page.evaluate(OVERFLOW) <= 0
            assert not problems


RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}


@pytest.mark.parametrize("name", NAMES)
def test_axe_finds_no_fault(browser, name):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright",
                              reason="axe-playwright-python is not installed")
    for width, colours in ((PHONE, "dark"), (DESK, "light")):
        with opened(browser, address(name), width, colours) as (page, _):
            found = axe.Axe().run(page, options=RULES).response["violations"]
            assert [(fault["id"], node["target"], node["html"][:120])
                    for fault in found for node in fault["nodes"][:3]] == []


@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize(("query", "found"), [
    ("winograd", "explanation/speed.html"), ("步幅 kernel", "zh/terms.html"),
    ("感受野", "zh/tutorial/receptive_field.html")])
def test_the_search_finds_a_page_without_a_server(browser, query, found, width):
    with opened(browser, address("search.html") + f"?q={query}", width) as (
            page, problems):
        page.wait_for_selector(f"#search-results a[href^='{found}']")
        assert page.locator("#search-results a").count() >= 2
        assert not problems


def test_a_page_links_to_the_other_language(browser):
    with opened(browser, address("tutorial/sizes.html")) as (page, problems):
        for language, folder in (("zh-CN", "/zh/tutorial/"), ("en", "docs/tutorial/")):
            page.locator(".book-language a").click()
            page.wait_for_load_state()
            assert page.url.endswith(f"{folder}sizes.html")
            assert page.evaluate("document.documentElement.lang") == language
            answer = "显示答案" if language == "zh-CN" else "Show the answer"
            assert page.get_by_text(answer).count() == 3
        assert not problems


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_explorer_of_sizes_has_the_formulas_of_the_library(browser, width):
    with opened(browser, address("tutorial/sizes.html"), width) as (page, problems):
        root = page.locator("#window-explorer")
        slider = {name: root.locator(f"input[name={name}]")
                  for name in ("n", "k", "s", "lo", "hi", "d")}
        for n, k, s, lo, hi, d in ((9, 4, 3, 2, 1, 2), (3, 5, 1, 0, 0, 1),
                                   (14, 2, 2, 0, 1, 3)):
            for name, value in zip(slider, (n, k, s, lo, hi, d)):
                slider[name].fill(str(value))
            expected = output_size(n + lo + hi, k, s, d)
            assert root.get_attribute("data-outputs") == str(expected)
        for n, k, s in ((8, 3, 2), (7, 5, 3), (12, 2, 4)):
            for name, value in zip("nksd", (n, k, s, 1)):
                slider[name].fill(str(value))
            root.locator("select").select_option("SAME")
            (low, high), = resolve_padding("SAME", [n], [k], [s])
            assert [slider[name].input_value() for name in ("lo", "hi")] == [
                str(low), str(high)]
            assert root.get_attribute("data-outputs") == str(-(-n // s))
        slider["n"].focus()
        before = slider["n"].input_value()
        page.keyboard.press("ArrowLeft")
        assert int(slider["n"].input_value()) == int(before) - 1
        assert page.evaluate(OVERFLOW) <= 0 and not problems


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_the_explorer_of_fields_follows_the_keyboard(browser, width):
    with opened(browser, address("tutorial/receptive_field.html"),
                width) as (page, problems):
        root = page.locator("#field-explorer")
        root.locator("select").select_option("lenet5")
        layer = root.locator("input[name=layer]")
        layer.focus()
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        assert root.get_attribute("data-field") == "5"
        page.keyboard.press("End")
        assert root.get_attribute("data-field") == "16"
        root.locator("input[name=row]").focus()
        page.keyboard.press("ArrowRight")
        assert "16 x 16" in root.locator("[aria-live]").inner_text()
        assert page.evaluate(OVERFLOW) <= 0 and not problems


def test_the_drawn_network_reads_its_examples_and_a_drawn_line(browser):
    with opened(browser, address("tutorial/lenet.html"), PHONE) as (page, problems):
        root = page.locator("#digit-explorer")
        assert root.get_attribute("data-answer") == ""
        buttons = root.get_by_role("button", name="Example")
        right = 0
        for i in range(buttons.count()):
            buttons.nth(i).click()
            right += buttons.nth(i).inner_text().endswith(
                root.get_attribute("data-answer"))
        assert right >= 2
        root.get_by_role("button", name="Clear").click()
        root.locator(".explorer-paper").focus()
        for _ in range(16):
            page.keyboard.press("Shift+ArrowDown")
        assert root.get_attribute("data-answer") in list("0123456789")
        assert not problems


def test_the_drawn_network_is_that_of_the_library(browser):
    with opened(browser, address("tutorial/lenet.html")) as (page, problems):
        data = json.loads(page.locator("#digit-data").text_content())
        params = {}
        for key, array in data["arrays"].items():
            layer, kind = key.split("/")
            values = np.frombuffer(base64.b64decode(array["bytes"]), np.int8)
            params.setdefault(layer, {})[kind] = values.reshape(array["shape"]) * (
                np.float32(array["scale"]))
        network = networks.from_config(lenet.get_config("digits"), 10)
        root = page.locator("#digit-explorer")
        for i, example in enumerate(data["examples"]):
            image = jax.image.resize(np.array(example["rows"], np.float32) / 16,
                                     (28, 28), "linear")
            logits = network.apply({"params": params}, image[None, ..., None])[0]
            root.get_by_role("button", name="Example").nth(i).click()
            assert root.get_attribute("data-answer") == str(logits.argmax())
            shown = np.array(root.get_attribute("data-logits").split(), np.float32)
            np.testing.assert_allclose(shown, logits, atol=1e-4)
        assert not problems
