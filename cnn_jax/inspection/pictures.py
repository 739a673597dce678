"""Every picture there is of a trained run, by name."""

from collections.abc import Callable, Iterable

from cnn_jax.errors import InputError
from cnn_jax.inspection.picture import Picture
from cnn_jax.inspection.settings import Settings, names
from cnn_jax.inspection.subject import Subject

# Name -> function from a subject and the settings to pictures, one after another.
PICTURES: dict[str, Callable[[Subject, Settings], Iterable[Picture]]] = {
}


def chosen(only: str) -> dict[str, Callable]:
    """The rows named in 'saliency,kernels', all of them for ''."""
    asked = names(only)
    for name in asked:
        if name not in PICTURES:
            raise InputError(f"config.inspect.only = {only!r}: there is no picture "
                             f"{name!r}; known are {', '.join(PICTURES)}")
    return {name: row for name, row in PICTURES.items() if not asked or name in asked}
