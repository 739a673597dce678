"""Trains one run with Ray Train's JaxTrainer, with one process on each worker.

    pip install -e '.[ray]'
    python experiments/ray_train.py --config=configs/lenet.py --workdir=runs/ray \
        --workers=2 --platform=cpu

`--config.FIELD=VALUE` works as in main.py. cnn_jax must be installed on each node, and
all nodes must be able to write --workdir and to read data.dir. Ray joins the processes
by jax.distributed, so `training.run` need not. If a worker is lost, Ray restarts all
workers, up to --failures times, and the run resumes at its last checkpoint. On TPUs,
--workers is the number of hosts and --topology that of the slice.
"""

import os
import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax.config import check, to_json  # noqa: E402

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file of the run.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, on a shared disk.")
WORKERS = flags.DEFINE_integer("workers", 2, "Number of processes.", lower_bound=1)
PLATFORM = flags.DEFINE_enum("platform", "cpu", ["cpu", "gpu", "tpu"],
                             "What each process computes on.")
GPUS = flags.DEFINE_integer("gpus", 1, "GPUs of each process.", lower_bound=1)
TOPOLOGY = flags.DEFINE_string("topology", None, "Topology of a TPU slice, as 4x4.")
ACCELERATOR = flags.DEFINE_string("accelerator", None, "Type of TPU, as TPU-V6E.")
FAILURES = flags.DEFINE_integer("failures", 3, "How often Ray restarts.")
flags.mark_flags_as_required(["config", "workdir"])


def train(arguments: dict[str, Any]) -> None:
    """Trains on one worker, after Ray has joined them all."""
    import json

    import jax
    import ray.train

    from cnn_jax import training
    from cnn_jax.config import from_json

    assert jax.process_count() == ray.train.get_context().get_world_size()
    training.run(from_json(json.loads(arguments["config"])), arguments["workdir"])


def main(argv: list[str]) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxConfig, JaxTrainer

    check(CONFIG.value)
    workdir, platform = str(Path(WORKDIR.value).absolute()), PLATFORM.value
    scaling = {
        "cpu": {},
        "gpu": {"use_gpu": True, "resources_per_worker": {"GPU": GPUS.value}},
        "tpu": {"use_tpu": True, "topology": TOPOLOGY.value,
                "accelerator_type": ACCELERATOR.value}}[platform]
    names = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}
    ray.init(runtime_env={"env_vars": {"JAX_PLATFORMS": names[platform]}})
    trainer = JaxTrainer(
        train, train_loop_config={"config": to_json(CONFIG.value), "workdir": workdir},
        # Ray joins processes only if use_tpu or use_gpu is set, so cpu sets use_gpu
        # too; JAX_PLATFORMS chooses the device.
        jax_config=JaxConfig(use_tpu=platform == "tpu", use_gpu=platform != "tpu"),
        scaling_config=ScalingConfig(num_workers=WORKERS.value, **scaling),
        run_config=RunConfig(storage_path=os.path.join(workdir, "ray"),
                             failure_config=FailureConfig(FAILURES.value)))
    trainer.fit()


if __name__ == "__main__":
    app.run(main)
