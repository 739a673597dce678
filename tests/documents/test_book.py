"""The book's links hold, its cells are styled, its tables hold what the code has."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.pages import DOCS, ROOT, cells
from tests.support.peer_networks import KERAS, TORCH

from cnn_jax import data, layers, networks, ops
from cnn_jax.cli import commands
from cnn_jax.config import FIELDS
from cnn_jax.inspection.output import PICTURES
from cnn_jax.interop.pretrained import PRETRAINED
from cnn_jax.tasks import TASKS

sys.path.insert(0, str(DOCS))

from book import explorers, figures, tables  # noqa: E402

PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [*PAGES, *ROOT.glob("*.md"), *(ROOT / "measured").rglob("*.md")]


def headings(path: Path) -> set[str]:
    """Returns the anchors that GitHub gives to the headings of a document."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(
    path.relative_to(ROOT)))
def test_links_of_a_document_hold(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


def test_every_page_is_in_a_table_of_contents():
    listed = {DOCS / "index.md"}
    for page in PAGES:
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(), re.S):
            listed |= {page.parent / f"{line}.md" for line in block.split()
                       if not line.startswith(":")}
    assert listed == set(PAGES)


def referenced(page: Path) -> set[Path]:
    """Returns the files that a page links, shows or includes, and those of included
    documents.
    """
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s#]+)", text)
    included = re.findall(r"^```\{include\} (\S+)", text, re.MULTILINE)
    shown = re.findall(r"^```\{literalinclude\} (\S+)", text, re.MULTILINE)
    found = {(page.parent / name).resolve() for name in [*links, *included, *shown]
             if "://" not in name}
    return found.union(*(referenced((page.parent / name).resolve())
                         for name in included))


def test_the_results_show_or_link_every_measured_file():
    reached = set().union(*map(referenced, (DOCS / "results").glob("*.md")))
    measured = {path for path in (ROOT / "measured").rglob("*") if path.is_file()}
    assert not {str(path.relative_to(ROOT)) for path in measured - reached}


def test_cells_are_styled(tmp_path):
    """ruff accepts the cells of each page as one file, where imports may come late."""
    for page in PAGES:
        if code := cells(page):
            (tmp_path / f"{page.stem}.py").write_text("\n\n\n".join(code))
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--config",
         str(ROOT / "pyproject.toml"), "--extend-ignore=E303,E305,E402,W391",
         "--line-length=94",
         str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", sorted((DOCS / "tutorial").glob("[!i]*.md")),
                         ids=lambda page: page.stem)
def test_a_page_of_the_tutorial_ends_with_exercises(page):
    text = page.read_text()
    _, _, exercises = text.partition("## Exercises")
    asked = len(re.findall(r"^\*\*\d\.\*\*", exercises, re.MULTILINE))
    assert 2 <= asked == exercises.count(":tags: [hide-cell]")
    assert text.startswith("---\njupytext:")


def skeleton(page: Path) -> dict[str, list[str]]:
    """Returns what a page and its translation have in common."""
    text = page.read_text()
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    return {"front matter": re.findall(r"\A---\n.*?^---$", text, re.M | re.S),
            "cells": re.findall(r"^```\{code-cell\}.*?^```$", text, re.M | re.S),
            "levels of headings": re.findall(r"^#+(?= )", prose, re.M),
            "formulas": re.findall(r"^\$\$.*?\$\$$", prose, re.M | re.S),
            "exercises": re.findall(r"^\*\*\d\.\*\*", prose, re.M)}


@pytest.mark.parametrize("name", sorted({
    page.name for page in [*(DOCS / "tutorial").glob("*.md"),
                           *(DOCS / "zh" / "tutorial").glob("*.md")]}))
def test_a_page_of_the_tutorial_is_the_same_in_chinese(name):
    """Cells are equal byte for byte: the build executes them once for both pages."""
    english, chinese = (skeleton(folder / "tutorial" / name)
                        for folder in (DOCS, DOCS / "zh"))
    assert chinese == english


def test_tables_hold_what_the_code_has():
    fields = re.findall(r"^\| `([\w.]+)`", tables.config_fields(), re.MULTILINE)
    assert sorted(fields) == sorted(FIELDS)
    sets = re.findall(r"^\| `([\w:]+)` \| `(\w+)` \|", tables.data_sets(), re.MULTILINE)
    assert [name for name, _ in sets] == [*data.SOURCES, "tfds:NAME"]
    assert {task for _, task in sets} == {*TASKS}
    modes = re.findall(r"^\| `(\w+)`", tables.modes(), re.MULTILINE)
    assert modes == list(commands.COMMANDS)
    functions = {name for name in ops.__all__ if callable(getattr(ops, name))}
    assert set(re.findall(r"^## (\w+)$", tables.operations(), re.M)) == functions
    listed = re.findall(r"`(\w+)`", "".join(re.findall(
        r"^(`\w+`(?:, `\w+`)*)$", tables.families(), re.MULTILINE)))
    assert sorted(listed) == sorted(networks.PUBLISHED)
    for name in ("--workdir", "--mode", "--roofline"):
        assert f"`{name}`" in tables.flags()


def test_a_row_of_the_networks():
    row = tables.network_row("lenet5")
    assert row[:5] == ("`lenet5`", "32 x 32 x 1", "61,706", "0.417", "16")
    assert row[-1] == "counts"


def test_what_the_networks_are_checked_against():
    """Cases of the tests and rows of PRETRAINED, of networks that exist."""
    cases = {case.name for case in (*KERAS.values(), *TORCH.values())}
    assert cases <= set(networks.PUBLISHED)
    counted = {name for name in networks.PUBLISHED
               if tables.checked_against(name) == "counts"}
    assert counted == set(networks.PUBLISHED) - cases - {
        row.network for row in PRETRAINED.values()}
    assert tables.checked_against("vgg16").split(", ") == [
        "torchvision", "timm", "Keras (training)"]
    assert tables.checked_against("cifar_resnet110_preact") == (
        "torch (training, fewer blocks)")


def test_accuracies_are_cited_for_networks_without_weights():
    listed = set(re.findall(r"^\| `(\w+)`", tables.published_accuracy(), re.MULTILINE))
    assert {"alexnet", "cifar_resnet20", "selu_cnn"} <= listed
    assert listed <= set(networks.PUBLISHED)
    assert not listed & {row.network for row in PRETRAINED.values()}


def test_names_in_the_table_of_libraries_exist():
    text = (DOCS / "howto" / "from_other_libraries.md").read_text()
    for room, name in re.findall(r"`(layers|ops)\.(\w+)`", text):
        assert name in {"layers": layers, "ops": ops}[room].__all__, name


def test_the_page_of_operations_lists_every_algorithm():
    _, _, text = (DOCS / "howto" / "operations.md").read_text().partition(
        "## Convolution algorithms")
    listed = re.findall(r"^\| `(\w+)`", text.partition("\n## ")[0], re.MULTILINE)
    assert sorted(listed) == sorted(ops.ALGORITHMS)


def test_the_page_of_pictures_lists_every_name():
    text = (DOCS / "howto" / "looking_inside.md").read_text()
    table = text.partition("| name |")[2].partition("\n\n")[0]
    listed = re.findall(r"`(\w+)`", "".join(re.findall(r"^\|[^|]*\|", table, re.M)))
    assert sorted(listed) == sorted(PICTURES)


# Files, and methods of Keras and PyTorch, whose names look like fields.
NOT_FIELDS = {"data.augment", "data.json", "model.onnx", "model.stablehlo"} | {
    f"model.{name}" for name in ("build", "compile", "eval", "evaluate", "fit",
                                 "predict", "state_dict", "summary")}


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path.name
                                  != "CHANGELOG.md"],  # which names former fields
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_fields_that_a_document_names_exist(path):
    text = re.sub(r"^```\{code-cell\}.*?^```$", "", path.read_text(), flags=re.M | re.S)
    sections = "|".join({name.partition(".")[0] for name in FIELDS if "." in name})
    named = {*re.findall(r"--config\.([a-z][\w.]*)=", text),
             *re.findall(rf"`((?:{sections})\.\w+)", text)}
    unknown = named - set(FIELDS) - NOT_FIELDS
    assert {name for name in unknown if not name.startswith("model.fields")} == set()


def test_fields_of_the_explorer():
    fields = explorers.field_data(("lenet5",))["lenet5"]
    assert fields["image"] == 32
    assert ["conv1", 28, 5, 1, 0] in fields["layers"]


def test_figures_escape_and_colour():
    drawn = figures.matrix([[1.5, -2]], "<w>", limit=2, marked={(0, 1)})
    assert "&lt;w&gt;" in drawn and drawn.count("<td") == 2
    assert 'class="book-marked"' in drawn and "--book-negative" in drawn
    assert figures.picture([[0.0, 1], [1, 0]], "a < b").count("a &lt; b") == 2
