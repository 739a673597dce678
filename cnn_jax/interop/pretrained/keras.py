"""Lists the weights of keras.applications; source: keras 3.15 and a table of keras.io.

Keras publishes accuracies for a single centre crop, but not the size to which pictures
are resized before it. We choose 8/7 of the crop, as is usual.
"""

from typing import Any

from cnn_jax.interop.pretrained.row import (CAFFE, IMAGENET, SIGNED, Pretrained,
                                            centre_crop)

URL = "https://storage.googleapis.com/tensorflow/keras-applications/{}.h5"
KERNELS = "weights_tf_dim_ordering_tf_kernels"

# Their network -> (folder, file, md5, top-1 in percent).
FILES: dict[str, tuple[str, str, str, float | None]] = {
    "vgg16": ("vgg16", f"vgg16_{KERNELS}", "64373286793e3c8b2b4e3219cbf3544b", 71.3),
    "vgg19": ("vgg19", f"vgg19_{KERNELS}", "cbe5617147190e668d6c5d5026f83318", 71.3),
    "resnet50": ("resnet", f"resnet50_{KERNELS}",
                 "2cb95161c43110f7111970584f804107", 74.9),
    "resnet101": ("resnet", f"resnet101_{KERNELS}",
                  "f1aeb4b969a6efcfb50fad2f0c20cfc5", 76.4),
    "resnet152": ("resnet", f"resnet152_{KERNELS}",
                  "100835be76be38e30d865e96f2aaae62", 76.6),
    "resnet50v2": ("resnet", f"resnet50v2_{KERNELS}",
                   "3ef43a0b657b3be2300d5770ece849e0", 76.0),
    "resnet101v2": ("resnet", f"resnet101v2_{KERNELS}",
                    "6343647c601c52e1368623803854d971", 77.2),
    "resnet152v2": ("resnet", f"resnet152v2_{KERNELS}",
                    "a49b44d1979771252814e80f8ec446f9", 78.0),
    "densenet121": ("densenet", f"densenet121_{KERNELS}",
                    "9d60b8095a5708f2dcce2bca79d332c7", 75.0),
    "densenet169": ("densenet", f"densenet169_{KERNELS}",
                    "d699b8f76981ab1b30698df4c175e90b", 76.2),
    "densenet201": ("densenet", f"densenet201_{KERNELS}",
                    "1ceb130c1ea1b78c3bf6114dbdfd8807", 77.3),
    "inception_v3": ("inception_v3", f"inception_v3_{KERNELS}",
                     "9a0d58056eeedaa3f26cb7ebd46da564", 77.9),
    "xception": ("xception", f"xception_{KERNELS}",
                 "0a58e3b7378bc2990ea3b43d5981f1f6", 79.0),
    "mobilenet": ("mobilenet", "mobilenet_1_0_224_tf", "", 70.4),
    **{f"mobilenet_{width}": ("mobilenet", f"mobilenet_{text}_224_tf", "", top1)
       for width, text, top1 in (("0.75", "7_5", 68.4), ("0.5", "5_0", 63.7),
                                 ("0.25", "2_5", 50.6))},
    "mobilenet_v2": ("mobilenet_v2", f"mobilenet_v2_{KERNELS}_1.0_224", "", 71.3),
    **{f"mobilenet_v2_{width}": (
        "mobilenet_v2", f"mobilenet_v2_{KERNELS}_{width}_224", "", top1)
       for width, top1 in (("0.35", 60.3), ("0.5", 65.4), ("0.75", 69.8),
                           ("1.3", 74.4), ("1.4", 75.0))},
}
NETWORKS = {**{f"resnet{depth}": f"resnet{depth}_keras" for depth in (50, 101, 152)},
            **{f"resnet{depth}v2": f"resnet{depth}_v2_keras"
               for depth in (50, 101, 152)},
            "inception_v3": "inception_v3_keras", "mobilenet": "mobilenet_v1"}
BATCH_NORM = {"resnet": "keras_resnet", "densenet": "keras_resnet",
              "mobilenet_v2": "keras_mobilenet_v2"}  # by folder


def row(name: str, folder: str, file: str, md5: str, top1: float | None) -> Pretrained:
    """Makes the row of a network; its name may end in its width."""
    size = 299 if folder in ("inception_v3", "xception") else 224
    first_version = folder == "resnet" and "v2" not in name
    caffe = folder.startswith("vgg") or first_version
    fields: dict[str, Any] = {}
    network = name
    if folder.startswith("mobilenet"):
        network, width = folder, name.removeprefix(folder).removeprefix("_")
        if folder == "mobilenet":
            fields |= {"activation": "relu6", "padding": "keras"}
        if width:
            fields["width"] = float(width)
    return Pretrained(
        NETWORKS.get(network, network), "keras", URL.format(f"{folder}/{file}"),
        ("md5", md5) if md5 else None,
        centre_crop(size, round(size * 8 / 7), "bilinear"),
        CAFFE if caffe else IMAGENET if folder == "densenet" else SIGNED, top1, fields,
        BATCH_NORM.get(folder, "keras"), bgr=caffe)


ROWS = {f"keras:{name}": row(name, *facts) for name, facts in FILES.items()}
