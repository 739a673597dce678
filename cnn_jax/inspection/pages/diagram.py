"""Embeds the diagram of a network into the report."""

import base64
import re
from pathlib import Path
from typing import Any

from cnn_jax.errors import InputError
from cnn_jax.inspection.draw.network import FILE


def embedded_diagram(folder: Path) -> dict[str, Any] | None:
    """Returns what diagram.html needs: data URI, and size in CSS pixels.

    It is an image, in which a browser runs no script. None if there is no diagram.
    """
    path = folder / FILE
    if not path.exists():
        return None
    content = path.read_bytes()
    size = re.search(rb'<svg [^>]*width="(\d+)" height="(\d+)"', content)
    if size is None:
        raise InputError(f"{path} is damaged: delete it, and --mode=inspect draws it "
                         "again")
    return {"uri": "data:image/svg+xml;base64," + base64.b64encode(content).decode(),
            "width": int(size[1]), "height": int(size[2])}
