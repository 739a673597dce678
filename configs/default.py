"""Every field there is, once, with its default. The other configs change what differs.

Rules for each field (type, range, allowed names) are in `cnn_jax/config/rules.py`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0  # decides initial values, split, order, augmentation and dropout
    config.epochs = 10  # passes over the training part
    config.batch_size = 128  # images per step, over all devices
    config.eval_batch_size = 500  # images per evaluation step; any size is exact
    config.dtype = "float32"  # of the computation; parameters are always float32
    config.parallel = "jit"  # 'jit' over a device mesh, or 'pmap'
    config.devices = 0  # local devices to use; 0 = all
    config.steps_per_call = 0  # training steps in one jit call; 0 = 1 on a CPU, else 8
    config.coordinator = ""  # several processes: 'host:port' of the first, or 'auto'
    config.num_processes = 0  # processes in all; 0 = found by the cluster
    config.process_id = -1  # this process, from 0; -1 = found by the cluster

    config.model = ConfigDict()
    config.model.name = "lenet5"  # a name in cnn_jax.networks.NETWORKS
    config.model.num_classes = 0  # 0 = as many as the data set has
    config.model.conv = "auto"  # a name in cnn_jax.ops.CONVS
    config.model.pool = "auto"  # a name in cnn_jax.ops.POOLS
    config.model.init = "flax"  # a name in cnn_jax.layers.INITIALIZERS
    config.model.bn = "paper"  # a name in cnn_jax.layers.BATCH_NORM
    config.model.init_from = ""  # workdir of a trained run to take parameters from
    config.model.freeze = ""  # parts that do not learn, such as 'stem,stage1'
    config.model.fields = ConfigDict()  # the network's own fields, such as activation

    config.data = ConfigDict()
    config.data.name = "digits"  # a name in cnn_jax.data.SOURCES, or 'tfds:NAME'
    config.data.dir = ""  # folder of this one set; '' = $CNN_JAX_DATA/NAME, then tfds
    config.data.image_size = (0, 0)  # (height, width) in pixels; (0, 0) = as stored
    config.data.channels = 0  # 1 = grey, 3 = colour, 0 = as stored
    config.data.validation = 0.1  # of the training part: fraction < 1, or images >= 1
    config.data.split = "stratified"  # or 'first' or 'last': which are validation
    config.data.test = 0.2  # fraction; only for sets without a test part
    config.data.validation_is_test = False  # folder: its validation part is the test
    config.data.limit = 0  # use only so many training images; 0 = all
    config.data.seed = 0  # shapes_*: decides what is drawn
    config.data.biased_triangles = False  # shapes_*: with the published set's fault
    config.data.scaling = "unit"  # 'unit' 0..1, 'signed' -1..1, 'standard', 'minmax'

    config.augment = ConfigDict()  # of training images, with Keras' names
    config.augment.rotation_range = 0.0  # degrees either way
    config.augment.width_shift_range = 0.0  # fraction of the width either way
    config.augment.height_shift_range = 0.0  # fraction of the height either way
    config.augment.shear_range = 0.0  # degrees either way
    config.augment.zoom_range = 0.0  # size factor 1 - z .. 1 + z, each axis its own
    config.augment.horizontal_flip = False  # mirrors half of the images
    config.augment.vertical_flip = False  # turns half of the images upside down
    config.augment.fill_mode = "nearest"  # outside the image: or 'constant', 'reflect'
    config.augment.crop_padding = 0  # pixels added on each side before a random crop
    config.augment.cutout = 0  # side in pixels of a square that is blanked; 0 = none
    config.augment.mixup = 0.0  # alpha of Beta(alpha, alpha), as 0.2; 0 = no mixing
    config.augment.cutmix = 0.0  # the same, as 1.0; with both, each image gets one

    config.loss = ConfigDict()
    config.loss.label_smoothing = 0.0  # probability spread evenly over the classes

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # a name in training.optimizer.OPTIMIZERS
    config.optimizer.learning_rate = 1e-3  # the peak of the schedule
    config.optimizer.momentum = 0.9  # of momentum, nesterov, rmsprop and muon
    config.optimizer.weight_decay = 0.0  # of kernels; adamw, muon: decoupled; else L2
    config.optimizer.decay_parts = ""  # that decay, such as 'head'; '' = all kernels
    config.optimizer.clip_norm = 0.0  # largest global gradient norm; 0 = no limit
    config.optimizer.accumulate_steps = 1  # batches whose mean gradient makes an update
    config.optimizer.ema_decay = 0.0  # evaluate averaged parameters; 0 = the last ones

    config.schedule = ConfigDict()
    config.schedule.name = "constant"  # a name in training.optimizer.SCHEDULES
    config.schedule.warmup_epochs = 0.0  # linear from 0; onecycle: length of the rise
    config.schedule.boundaries_epochs = (0.0,)  # step: epochs at which the rate drops
    config.schedule.factor = 0.1  # step: what each drop multiplies the rate by
    config.schedule.final_factor = 0.0  # cosine, onecycle: last rate / peak
    config.schedule.decay = 0.0  # inverse: rate = peak / (1 + decay * updates)

    config.early_stopping = ConfigDict()
    config.early_stopping.monitor = "val_loss"  # or val_accuracy, val_mean_iou, ...
    config.early_stopping.patience = 5  # epochs without improvement; 0 = never stop
    config.early_stopping.min_delta = 1e-3  # what counts as improvement

    config.checkpoint = ConfigDict()
    config.checkpoint.monitor = "val_accuracy"  # which epoch is the best one
    config.checkpoint.every_steps = 0  # also inside an epoch; 0 = after each epoch only
    config.checkpoint.keep = 2  # latest checkpoints to keep, beside the best
    config.checkpoint.fallback = False  # where one is damaged, go on from an older one

    config.log = ConfigDict()
    config.log.every_steps = 20  # how often the loss is fetched, shown and checked

    config.debug = ConfigDict()
    config.debug.determinism = False  # make the first three steps twice and compare

    config.inspect = ConfigDict()  # of --mode=inspect; changes nothing of a run
    config.inspect.only = ""  # pictures to draw, such as 'kernels,saliency'; '' = all
    config.inspect.images = 8  # of the test part, that are explained
    config.inspect.layers = ""  # such as 'conv1,stage1_block2'; '' = some convolutions
    config.inspect.filters = ""  # of each of them, as '0,3,7'; '' = the first ones
    config.inspect.max_filters = 16  # how many those are
    config.inspect.target = ""  # class to explain, name or number; '' = the predicted
    config.inspect.cam_layer = ""  # of Grad-CAM; '' = the last convolution
    config.inspect.position = (-1, -1)  # (row, column) of a unit; (-1, -1) = the middle
    config.inspect.steps = 128  # of activation maximisation
    config.inspect.samples = 32  # noisy copies of an image in SmoothGrad
    config.inspect.noise = 0.15  # their standard deviation / range of the input
    config.inspect.window = 0  # side in pixels that occlusion hides; 0 = an eighth
    return config.lock()
