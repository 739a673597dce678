"""docs/reference/api.md lists exactly the public API."""

import importlib
import re
from pathlib import Path

import jax
import pytest

from cnn_jax import networks

TEXT = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()
LISTED = {module: re.findall(r"`(\w+)`", names) for module, names in re.findall(
    r"^\| `(cnn_jax\.\w+)` \|[^|]*\|([^|]*)\|$", TEXT, re.MULTILINE)}


def test_the_document_lists_every_module_with_public_names():
    package = Path(networks.__file__).parents[1]
    public = {f"cnn_jax.{path.parent.name if path.stem == '__init__' else path.stem}"
              for path in [*package.glob("*/__init__.py"), *package.glob("*.py")]
              if "\n__all__ =" in path.read_text()}
    assert public == set(LISTED)


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
