"""JSON that a run stores: read, sealed with a CRC-32, and of the form expected."""

import json
import stat
import types
import zlib
from pathlib import Path
from typing import Any

MAX_BYTES = 2**25  # the counts of 1,000 classes against each other take 2**23
MAX_DEPTH = 20


def read(path: Path) -> Any:
    """The JSON value in a file.

    Raises FileNotFoundError, and ValueError for all else that keeps it from being read.
    """
    try:
        found = path.stat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise ValueError("a pipe or a device in the place of a file")
        if found.st_size > MAX_BYTES:
            raise ValueError(f"{found.st_size:,} bytes; at most {MAX_BYTES:,} are read")
        value = json.loads(path.read_text())
        if _deeper(value, MAX_DEPTH):
            raise ValueError(f"nested more than {MAX_DEPTH} deep")
        return value
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(getattr(error, "strerror", None) or str(error)) from error


def _deeper(value: Any, depth: int) -> bool:
    """Whether containers are nested deeper than so."""
    if not isinstance(value, (dict, list)):
        return False
    items = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_deeper(item, depth - 1) for item in items)


def json_crc32(value: Any) -> int:
    """Of any JSON value; the same before it is written and after it was read."""
    try:
        return zlib.crc32(json.dumps(value, sort_keys=True).encode())
    except RecursionError:
        return -1  # nested deeper than what we write: no checksum is this one


def sealed(content: dict) -> dict:
    """A JSON object with its own CRC-32."""
    return content | {"crc32": json_crc32(content)}


def is_sealed(content: Any) -> bool:
    """Whether `content` is as `sealed` made it."""
    return isinstance(content, dict) and content.get("crc32") == json_crc32(
        {key: value for key, value in content.items() if key != "crc32"})


def fits(value: Any, form: Any) -> bool:
    """Whether a JSON value has a form, which is one of these.

    int, str, bool; float, which takes whole numbers too; object, which takes anything
    form | None        of these; in an object it may be missing, too
    [form]             a list, each item of this form
    (form, form)       a list of so many items, each of its own form
    {"name": form}     an object with these names, and no others unless by `str: form`
    """
    if isinstance(form, dict):
        needed = {name for name, one in form.items()
                  if name is not str and not isinstance(one, types.UnionType)}
        return (isinstance(value, dict) and needed <= value.keys()
                and all(fits(item, form.get(name, form.get(str)))
                        for name, item in value.items()))
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(item, form[0]) for item in value)
    if isinstance(form, tuple):
        return (isinstance(value, list) and len(value) == len(form)
                and all(map(fits, value, form)))
    if isinstance(form, types.UnionType):
        return any(fits(value, one) for one in form.__args__)
    return form is object or type(value) in ((int, float) if form is float else (form,))
