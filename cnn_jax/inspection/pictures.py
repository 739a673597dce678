"""The registry of pictures of a trained run."""

from cnn_jax.errors import InputError
from cnn_jax.inspection.draw import (activation_stats, classification_metrics,
                                     embedding, feature_maps, kernels, learning_curves,
                                     maximize, receptive_field, saliency)
from cnn_jax.inspection.draw.picture import Row
from cnn_jax.inspection.selection import split_names

PICTURES: dict[str, Row] = {
    "learning_curves": learning_curves.of_run,
    "classification_metrics": classification_metrics.metrics,
    "weights": activation_stats.weights,
    "activation_stats": activation_stats.activations,
    "embedding": embedding.embedding,
    "kernels": kernels.first_layer,
    "feature_maps": feature_maps.feature_maps,
    "receptive_field": receptive_field.receptive_fields,
    "saliency": saliency.saliency,
    "maximized_filters": maximize.filters,
    "maximized_classes": maximize.classes,
}


def chosen_rows(only: str | None) -> dict[str, Row]:
    """Returns the rows named in 'saliency,kernels'; all of them where none is named."""
    asked = split_names(only)
    for name in asked:
        if name not in PICTURES:
            raise InputError(f"config.inspect.only = {only!r}: there is no picture "
                             f"{name!r}; known are {', '.join(PICTURES)}")
    return {name: row for name, row in PICTURES.items() if not asked or name in asked}
