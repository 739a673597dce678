"""docs/reference/api.md lists exactly the public API."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from cnn_jax import networks

DOCS = Path(__file__).parents[2] / "docs"
# How-to pages that show how the inside works.
INSIDE = ("new_operation.md",)
TEXT = (DOCS / "reference" / "api.md").read_text()
LISTED = {module: re.findall(r"`(\w+)`", names) for module, names in re.findall(
    r"^\| `(cnn_jax\.[\w.]+)` \|[^|]*\|([^|]*)\|$", TEXT, re.MULTILINE)}


def test_the_document_lists_every_module_with_public_names():
    package = Path(networks.__file__).parents[1]
    public = {".".join(["cnn_jax", *path.relative_to(package).with_suffix("").parts])
              .removesuffix(".__init__")
              for path in package.rglob("*.py") if "\n__all__ =" in path.read_text()}
    assert public == set(LISTED)


def test_pages_for_users_import_public_names_alone():
    """They may import the configs too, which are files to read and to change."""
    pages = [DOCS.parent / "README.md", *(DOCS / "howto").glob("*.md")]
    imports = [(page.name, *line) for page in pages if page.name not in INSIDE
               for line in re.findall(r"^from (cnn_jax[\w.]*) import ([\w, ]+)$",
                                      page.read_text(), re.MULTILINE)]
    assert len(imports) > 10
    for page, module, names in imports:
        for name in names.split(", "):
            assert (name in LISTED.get(module, ()) or f"{module}.{name}" in LISTED
                    or module == "cnn_jax.configs"), f"{page}: {module}.{name}"


@pytest.mark.parametrize("name", LISTED)
def test_the_names_are_those_of_the_module(name):
    module = importlib.import_module(name)
    assert sorted(module.__all__) == sorted(LISTED[name])
    for attribute in module.__all__:
        value = getattr(module, attribute)
        assert not callable(value) or value.__doc__, attribute


def test_a_network_has_a_dtype_and_is_applied_as_in_evaluation():
    images = jax.ShapeDtypeStruct((2, 32, 32, 1), "float32")

    def logits(images):
        network = networks.create("lenet5", num_classes=5, dtype="bfloat16")
        return network.apply(network.init(jax.random.key(0), images), images)

    out = jax.eval_shape(logits, images)
    assert out.shape == (2, 5) and out.dtype == "bfloat16"
    with pytest.raises(ValueError, match="int32"):
        networks.create("lenet5", dtype="int32")
