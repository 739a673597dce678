"""Every picture there is of a trained run, by name."""

from collections.abc import Callable, Iterable

from cnn_jax.errors import InputError
from cnn_jax.inspection.draw import (explanations, kernels, plots,
                                     classification_metrics as quality_pictures)
from cnn_jax.inspection.explain import embedding, maximize, receptive_field, units
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.settings import Settings, names
from cnn_jax.inspection.inspected_run import Subject

# Name -> function from a subject and the settings to pictures, one after another.
PICTURES: dict[str, Callable[[Subject, Settings], Iterable[Picture]]] = {
    "learning_curves": plots.of_run,
    "quality": quality_pictures.quality,
    "weights": units.weights,
    "units": units.units,
    "embedding": embedding.embedding,
    "kernels": kernels.first_layer,
    "strip": kernels.strip,
    "receptive_field": receptive_field.fields,
    "saliency": explanations.saliency,
    "maximized_filters": maximize.filters,
    "maximized_classes": maximize.classes,
}


def chosen(only: str | None) -> dict[str, Callable]:
    """The rows named in 'saliency,kernels', all of them for None."""
    asked = names(only)
    for name in asked:
        if name not in PICTURES:
            raise InputError(f"config.inspect.only = {only!r}: there is no picture "
                             f"{name!r}; known are {', '.join(PICTURES)}")
    return {name: row for name, row in PICTURES.items() if not asked or name in asked}
