"""TensorBoard gets the config as text, and its fields as hyperparameters."""

from tests.support.tiny_runs import tiny

from cnn_jax.workdir.recorder import Recorder


def test_the_config_is_text_and_its_fields_are_hyperparameters(tmp_path):
    # The import takes a second.
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.metadata import PLUGIN_NAME
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    Recorder(tmp_path, 0, [], config=tiny(batch_size=24)).close()
    train, validation = (EventAccumulator(str(tmp_path / split)).Reload()
                         for split in ("train", "validation"))
    shown, = train.Tensors("config/text_summary")
    assert b'"batch_size": 24' in shown.tensor_proto.string_val[0]
    session = HParamsPluginData.FromString(validation.PluginTagToContent(PLUGIN_NAME)[
        "_hparams_/session_start_info"]).session_start_info
    assert session.hparams["batch_size"].number_value == 24
    assert session.hparams["optimizer.name"].string_value == "adam"
    assert session.hparams["model.remat"].bool_value is False
