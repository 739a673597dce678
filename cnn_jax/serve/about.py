"""Describes a run for a web page, and lists the files that pages share.

The page of --mode=serve and an exported page share the files in `SHARED`. Each has its
own index.html and its own backend: the script that computes or requests answers.
"""

from pathlib import Path
from typing import Any

from cnn_jax import data
from cnn_jax.inspection.draw.drawing import class_colours
from cnn_jax.tasks import class_name
from cnn_jax.workdir.trained import Trained

PAGE = Path(__file__).parent / "page"
SHARED = ("page.css", "drawing.js", "page.js")


def describe_run(trained: Trained, count: int) -> dict[str, Any]:
    """Returns what page.js needs to know about a run whose network has `count` outputs.
    """
    info, task = trained.info, data.task_of(trained.config.data)
    return {
        "network": trained.config.model.name, "dataset": info.name,
        "image_shape": info.image_shape, "unit": task.unit, "exclusive": task.exclusive,
        "classes": [class_name(info.class_names, i) for i in range(count)],
        "colours": ["#%02x%02x%02x" % tuple(colour)
                    for colour in class_colours()[:count]]}
