"""Writes tests/interop/published_shapes.json from the networks of the libraries.

    python -m tests.support.published_shapes    needs the extra `peers`
"""

import json
import os
from pathlib import Path

FILE = Path(__file__).parents[1] / "interop" / "published_shapes.json"
STORED = ("torchvision:resnet50", "torchvision:densenet121", "torchvision:inception_v3",
          "timm:mobilenetv2_100.ra_in1k", "keras:resnet50", "keras:inception_v3")


def published_shapes(source):
    """Lists [key, shape] of every array except counters, in the library's order."""
    library, _, name = source.partition(":")
    if library == "keras":
        os.environ.setdefault("KERAS_BACKEND", "jax")
        import keras
        keras.backend.clear_session()
        make = {"resnet50": "ResNet50", "inception_v3": "InceptionV3"}[name]
        model = getattr(keras.applications, make)(weights=None)
        return [[f"{layer.name}/{weight.name}", list(weight.shape)]
                for layer in model.layers for weight in layer.weights]
    import torch
    with torch.device("meta"):
        if library == "timm":
            import timm
            model = timm.create_model(name)
        else:
            import torchvision
            model = torchvision.models.get_model(name, weights=None, **(
                {"init_weights": False} if name == "inception_v3" else {}))
    return [[key, list(tensor.shape)] for key, tensor in model.state_dict().items()
            if not key.endswith("num_batches_tracked")]


def text(stored):
    """Formats the table, one source a line."""
    rows = (f"{json.dumps(source)}: {json.dumps(shapes, separators=(',', ':'))}"
            for source, shapes in stored.items())
    return "{\n" + ",\n".join(rows) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(text({source: published_shapes(source) for source in STORED}))
