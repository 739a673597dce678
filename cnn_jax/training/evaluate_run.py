"""Evaluates a run again from its workdir."""

from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.console import Reporter, split_line
from cnn_jax.data import Arrays
from cnn_jax.training import parallel
from cnn_jax.training.evaluate import open_evaluation
from cnn_jax.training.evaluate_pretrained import evaluate_pretrained
from cnn_jax.training.recipe import abstract_state, create_recipe
from cnn_jax.workdir.checkpoints import restore
from cnn_jax.workdir.folder import load_data, read_config, read_data_info
from cnn_jax.workdir.trained import best_checkpoint

__all__ = ["evaluate_run"]


def evaluate_run(workdir: str | Path, config: ConfigDict | None = None,
                 quiet: bool = False, data: Arrays | None = None
                 ) -> dict[str, dict[str, float]]:
    """Evaluates the best checkpoint on the validation and test splits.

    config: the run's own config, perhaps with other devices or another data folder. A
        pretrained network is evaluated on the pictures of the data folder, as one split
        named "given".
    data: the arrays that `training.run` was called with, if it was.
    Returns {split: metrics}. Raises InputError if the data have changed.
    """
    report, workdir = Reporter(quiet), Path(workdir)
    config_of_run, info = read_config(workdir), read_data_info(workdir)
    if not info.has_images:
        return {"given": evaluate_pretrained(workdir, config, quiet)}
    config = config or config_of_run
    placement = parallel.make_placement(config)
    recipe = create_recipe(config, info, placement.axis_name)
    with report.under_way("reading the checkpoint", plain=False):
        folder, _ = best_checkpoint(workdir, config_of_run.checkpoint.monitor)
        state, _ = restore(folder, abstract_state(recipe, info.image_shape))
    with report.under_way("loading the data", plain=False):
        dataset = load_data(workdir, config, data)
    report.line(f"data: {dataset.source}")
    report.line(f"checkpoint: step {folder.name} of {workdir}")
    with open_evaluation(recipe, state, dataset, info, config, placement,
                         report) as (feed, evaluate):
        results = {split: evaluate(split) for split in ("validation", "test")
                   if feed.counts[split]}
    for split, metrics in results.items():
        report.line(split_line(split, metrics))
    return results
