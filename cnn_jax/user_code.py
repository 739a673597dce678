"""Finds a row of a table, or an object of the user's own by its MODULE:NAME.

Modules are searched in the current folder, beside the config file and among the
installed packages.
"""

import contextlib
import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


class ModuleError(ValueError):
    """Raised when the module of MODULE:NAME cannot be imported."""


def is_reference(name: Any) -> bool:
    """Tells whether a name is a reference to user code, MODULE:NAME."""
    return (isinstance(name, str)
            and re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", name) is not None)


def short_name(name: str) -> str:
    """Returns NAME of MODULE:NAME, and other names unchanged."""
    return name.rpartition(":")[2]


def import_module(name: str) -> ModuleType:
    """Imports the module of MODULE:NAME. Raises ModuleError if that fails."""
    module = name.partition(":")[0]
    try:
        return importlib.import_module(module)
    except Exception as error:  # a module of the user may raise anything
        missing = (isinstance(error, ModuleNotFoundError)
                   and error.name == module.split(".")[0])
        reason = ("it is neither in the current folder, nor beside the config file, "
                  "nor installed" if missing else
                  ": ".join(filter(None, (source_line(error), type(error).__name__,
                                          str(error)))))
        raise ModuleError(f"{name!r}: the module {module} cannot be imported ({reason})"
                          ) from error


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Lists the lines of the user's own files that led to an error."""
    return [frame for frame in traceback.extract_tb(error.__traceback__)
            if is_user_file(Path(frame.filename))]


def source_line(error: BaseException) -> str:
    """Returns the last of the user's own lines: 'FILE, line N', or '' without one."""
    frames = user_frames(error)
    return f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else ""


def is_user_file(path: Path) -> bool:
    """Tells whether a file is neither of this package nor of a library."""
    package = Path(__file__).resolve().parent
    ours = (path.resolve().is_relative_to(package)
            or path == Path(sys.argv[0]).absolute())
    installed = (path.is_relative_to(sysconfig.get_path("stdlib"))
                 or {"site-packages", "dist-packages"} & {*path.parts})
    return path.is_file() and not ours and not installed


def load(name: str, kind: type | None = None) -> Any:
    """Imports the object that MODULE:NAME names.

    kind: the class of which it must be an instance; None: it must be callable.
    Raises ValueError if the module has no such object.
    """
    module, attribute = import_module(name), short_name(name)
    value = getattr(module, attribute, None)
    if not (callable(value) if kind is None else isinstance(value, kind)):
        noun = "function" if kind is None else kind.__name__
        raise ValueError(f"{name!r}: {module.__file__} has no {noun} {attribute}")
    return value


@contextlib.contextmanager
def field_errors(field: str, name: str) -> Iterator[None]:
    """Adds a note with the config field to an error of the user's own function."""
    try:
        yield
    except Exception as error:
        if is_reference(name):
            error.add_note(f"config.{field} = {name}")
        raise


def find(table: Mapping[str, Any], name: str, kind: type | None = None) -> Any:
    """Finds a row of a table by its name, or the object that MODULE:NAME names."""
    return load(name, kind) if is_reference(name) else table[name]
