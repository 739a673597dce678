"""report.html and the page of --mode=compare work in Chromium, if it is installed."""

import pytest
from tests.support.browser import DESK, OVERFLOW, PHONE, opened
from tests.support.made_runs import DIGITS, made_metrics, made_run

from cnn_jax.inspection.draw import classification_metrics as drawn_metrics
from cnn_jax.inspection.draw.activation_stats import draw_dead
from cnn_jax.inspection.draw.picture import write
from cnn_jax.inspection.pages import compare, report

# Every picture: [naturalWidth, alt, width on the page, width of its paper].
IMAGES = """[...document.images].map(image => [image.naturalWidth, image.alt,
    image.getBoundingClientRect().width])"""

# Text whose contrast with its background is below 4.5 : 1 (WCAG 2.2, 1.4.3).
PALE = """() => {
  const channel = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => {
    const [r, g, b] = numbers(colour).map(v => channel(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const pale = [];
  let checked = 0;
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(
        node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    checked += 1;
    if (ratio < 4.5) pale.push([element.tagName, element.textContent.trim(), ratio]);
  }
  return [checked, pale];
}"""

HEADINGS = "[...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
UNNAMED = """[...document.querySelectorAll('table')].filter(table =>
    !table.caption || [...table.querySelectorAll('th')].some(th => !th.scope)).length"""
EXPAND = "document.querySelectorAll('details').forEach(one => { one.open = true })"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Makes {name: address} of pages with long names, many columns, wide pictures."""
    folder = tmp_path_factory.mktemp("pages")
    names = ("<script>document.title = 'taken over'</script>",
             "a_very_long_name_of_a_class_without_any_space_in_it", *DIGITS[2:])
    runs = [made_run(folder / f"run_with_a_long_name_that_has_no_space_{i}", {
        "seed": i % 2, "optimizer.learning_rate": 10.0 ** (-i // 2 - 1)},
        0.9 + 0.01 * i, class_names=names) for i in range(8)]
    pictures = record_pictures(runs[0])
    stopped = made_run(folder / "stopped", accuracy=None, epochs=0)
    compare.write_comparison(runs, folder / "compare.html")
    return {"report": report.write_report(runs[0]).as_uri(),
            "stopped": report.write_report(stopped).as_uri(),
            "compare": (folder / "compare.html").as_uri(), "pictures": pictures}


def record_pictures(workdir) -> int:
    """Records pictures of several shapes in a workdir; returns how many."""
    metrics = made_metrics(90, DIGITS, 24)
    wide = draw_dead({"layer": metrics.confusion[0] > 0}, "3 images")
    wide.figure.set_size_inches(14, 3)
    tall = draw_dead({"layer": metrics.confusion[0] > 0}, "3 images")
    tall.figure.set_size_inches(3, 9)
    pictures = [drawn_metrics.draw_confusion(metrics),
                drawn_metrics.draw_calibration(metrics),
                draw_dead({"act1": metrics.confusion[0] > 0}, "3 images"),
                wide._replace(name="wide"), tall._replace(name="mistakes")]
    for picture in pictures:
        write(picture, workdir / "pictures", 24)
    return len(pictures)


@pytest.mark.parametrize("width, colours", [
    (PHONE, "light"), (DESK, "dark"),
    *(pytest.param(*case, marks=pytest.mark.slow)
      for case in ((PHONE, "dark"), (DESK, "light")))])
@pytest.mark.parametrize("name", ["report", "stopped", "compare"])
def test_a_page_on_a_screen(browser, pages, name, width, colours):
    with opened(browser, pages[name], width, colours) as (page, problems):
        images = page.evaluate(IMAGES)
        count = {"report": 3 + pages["pictures"], "stopped": 0, "compare": 5}[name]
        assert len(images) == count
        for natural, alt, shown in images:
            assert natural > 0 and alt.strip() and shown > 100
        assert page.evaluate(OVERFLOW) <= 0, "the page scrolls sideways"
        page.evaluate(EXPAND)
        assert page.evaluate(OVERFLOW) <= 0, "with all fields it scrolls sideways"
        checked, pale = page.evaluate(PALE)
        assert checked > 30 and not pale, pale
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (colours == "light")
        headings = page.evaluate(HEADINGS)
        assert headings[0] == 1 and headings.count(1) == 1
        assert all(b - a <= 1 for a, b in zip(headings, headings[1:])), headings
        assert page.evaluate(UNNAMED) == 0, "a table lacks its caption or a scope"
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.title() != "taken over"
        assert not problems, problems


def test_wide_content_scrolls_in_its_own_box(browser, pages):
    """On a phone, the boxes can be reached by keyboard and have names."""
    with opened(browser, pages["report"], PHONE) as (page, problems):
        boxes = page.evaluate("""[...document.querySelectorAll('.scroll')].map(box =>
            [box.scrollWidth - box.clientWidth, box.tabIndex, box.ariaLabel])""")
        assert any(wider > 0 for wider, _, _ in boxes)
        assert all(place == 0 and label for _, place, label in boxes)
        assert not problems


def test_a_tall_picture_leaves_no_gap_beside_it(browser, pages):
    """Pictures are in columns on a desk, and below each other on a phone."""
    with opened(browser, pages["report"], DESK) as (page, _):
        for width, columns in (DESK, 3), (390, 1):
            page.set_viewport_size({"width": width, "height": 800})
            boxes = page.evaluate("""[...document.querySelector(
                "figure:has(img[height='864'])").parentElement.querySelectorAll(
                "figure:not(.wide)")].map(figure => figure.getBoundingClientRect())""")
            assert len({box["left"] for box in boxes}) == columns and len(boxes) == 3
            assert max(box["bottom"] for box in boxes) - min(
                box["top"] for box in boxes) < sum(box["height"] for box in boxes) * (
                0.9 if columns > 1 else 1.1)
            assert page.evaluate(OVERFLOW) <= 0


@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_on_paper(browser, pages, name):
    """A4 inside its margins is 680 pixels wide. Nothing is cut off or folded.

    Paper is white even for readers who prefer dark pages.
    """
    with opened(browser, pages[name], 680, "dark") as (page, problems):
        page.emulate_media(media="print")
        assert page.evaluate(OVERFLOW) <= 0
        checked, pale = page.evaluate(PALE)
        assert checked > 30 and not pale, pale
        assert page.evaluate("getComputedStyle(document.body).backgroundColor"
                             ) == "rgb(255, 255, 255)"
        assert page.evaluate("""[...document.querySelectorAll('details table')].every(
            table => table.getBoundingClientRect().height > 500)""")
        for _, _, shown in page.evaluate(IMAGES):
            assert shown <= 680
        assert page.pdf(format="A4").startswith(b"%PDF")
        assert not problems


def test_the_page_needs_no_network_and_no_script(browser, pages):
    """An offline browser without scripts shows the same text and pictures."""
    context = browser.new_context(java_script_enabled=False, offline=True)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url[:60]))
    page.goto(pages["report"])
    assert page.locator("h1").inner_text() == "baseline on digits"
    assert all(url.startswith(("file:", "data:")) for url in asked), asked
    context.close()
