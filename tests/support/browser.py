"""Opens pages in a real browser: the Chromium of the system, headless.

Besides Chromium (Debian: `apt-get install chromium`), `pip install playwright` is
enough, without playwright's own browsers. The fixture `browser` is in conftest.py.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PHONE, DESK = 360, 1280  # widths in CSS pixels

# How far the page is wider than the window, in pixels: it must not scroll sideways.
OVERFLOW = ("document.documentElement.scrollWidth"
            " - document.documentElement.clientWidth")


@contextlib.contextmanager
def launched() -> Iterator:
    """Yields a playwright Browser; skips the test if none can be launched."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    # Chromium refuses to start its sandbox as root, as in most containers.
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=program, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, url: str, width: int = DESK, colours: str = "light") -> Iterator:
    """Yields (page, problems) of one address, in its own profile.

    problems: collects console errors and warnings, exceptions of scripts, failed
    requests and responses with status 400 or above.
    colours: "light" or "dark", the colour scheme that the reader prefers.
    """
    context = browser.new_context(viewport={"width": width, "height": 800},
                                  color_scheme=colours)
    page, problems = context.new_page(), []
    page.on("console", lambda message: problems.append(
        f"{message.type}: {message.text}") if message.type in ("error", "warning")
        else None)
    page.on("pageerror", lambda error: problems.append(f"exception: {error}"))
    page.on("requestfailed", lambda request: problems.append(
        f"failed: {request.url[:200]} {request.failure}"))
    page.on("response", lambda answer: problems.append(
        f"{answer.status}: {answer.url[:200]}") if answer.status >= 400 else None)
    try:
        page.goto(url, wait_until="load")
        yield page, problems
    finally:
        context.close()
