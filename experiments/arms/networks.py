"""The benchmark's networks in other libraries, each written once.

A network is a function of an image batch and of `make`, which makes the layers of one
library and reuses them in later calls. Layers have the names of our own networks, so
that parameters can be copied by name.
"""


def lenet5(make, x, classes):
    x = make.zero_pad(x, 2)
    for i, features in enumerate((6, 16), 1):
        x = make.tanh(make.conv(x, f"conv{i}", features, 5, padding=0))
        x = make.avg_pool(x, 2)
    x = make.flatten(x)
    for i, features in enumerate((120, 84), 1):
        x = make.tanh(make.dense(x, f"fc{i}", features))
    return make.dense(x, "head", classes)


def stacked(make, x, classes, activation="selu", separable=False):
    activate = getattr(make, activation)
    for i, features in enumerate((32, 64, 128), 1):
        for j in (1, 2):
            name = f"group{i}_conv{j}"
            if separable and (i, j) != (1, 1):
                x = make.separable(x, name, features, 3)
            else:
                x = make.conv(x, name, features, 3)
            x = activate(x)
        x = make.max_pool(x, 2)
    x = activate(make.dense(make.flatten(x), "fc1", 128))
    return make.dense(x, "head", classes)


def separable(make, x, classes):
    return stacked(make, x, classes, separable=True)


def monkey(make, x, classes):
    return stacked(make, x, classes, "relu")


def vgg16(make, x, classes):
    groups = (64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3
    for i, group in enumerate(groups, 1):
        for j, features in enumerate(group, 1):
            name = f"group{i}_conv{j}"
            x = make.conv(x, f"{name}.conv", features, 3)
            x = make.relu(make.batch_norm(x, f"{name}.bn", 1e-3, .99))
        x = make.dropout(make.max_pool(x, 2), f"drop{i}", .2)
    x = make.flatten(x)
    for i in (1, 2):
        x = make.relu(make.dense(x, f"fc{i}", 512))
        x = make.dropout(x, f"fc{i}_drop", .2)
    return make.dense(x, "head", classes)


def resnet18(make, x, classes):
    """For 32 x 32 images: 3 x 3 stem, no pool; Keras' batch norm."""
    norm = 1e-3, .99
    x = make.conv(x, "stem_conv", 64, 3, bias=False)
    x = make.relu(make.batch_norm(x, "stem_bn", *norm))
    return residual_stages(make, x, classes, (2, 2, 2, 2), False, norm)


def resnet50(make, x, classes):
    x = make.conv(x, "stem_conv", 64, 7, 2, bias=False)
    x = make.relu(make.batch_norm(x, "stem_bn"))
    x = make.max_pool(x, 3, 2, padding=1)
    return residual_stages(make, x, classes, (3, 4, 6, 3), True)


def mobilenet_v2(make, x, classes):
    x = cba(make, x, "stem", 32, 3, 2)
    plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1),
            (6, 160, 3, 2), (6, 320, 1, 1))  # expansion, features, blocks, stride
    channels = 32
    for i, (expansion, features, count, stride) in enumerate(plan, 1):
        for j in range(1, count + 1):
            name, y = f"stage{i}_block{j}", x
            expanded, step = expansion * channels, stride if j == 1 else 1
            if expansion != 1:
                y = cba(make, y, f"{name}.expand", expanded, 1)
            y = cba(make, y, f"{name}.depthwise", expanded, 3, step, groups=expanded)
            y = cba(make, y, f"{name}.project", features, 1, activate=False)
            x = make.add(y, x) if step == 1 and features == channels else y
            channels = features
    x = make.global_avg_pool(cba(make, x, "final", 1280, 1))
    return make.dense(make.dropout(x, "drop", .2), "head", classes)


def cba(make, x, name, features, size, stride=1, groups=1, activate=True):
    """Makes a convolution, batch norm and ReLU6."""
    x = make.conv(x, f"{name}.conv", features, size, stride, bias=False, groups=groups)
    x = make.batch_norm(x, f"{name}.bn", 1e-3)
    return make.relu6(x) if activate else x


def residual_stages(make, x, classes, blocks, bottleneck, norm=()):
    for i, count in enumerate(blocks, 1):
        features = 64 * 2 ** (i - 1)
        for j in range(1, count + 1):
            stride = 2 if i > 1 and j == 1 else 1
            plan = [(features, 3, stride), (features, 3, 1)]
            if bottleneck:
                plan = [(features, 1, stride), (features, 3, 1), (4 * features, 1, 1)]
            new = j == 1 and (i > 1 or bottleneck)
            x = residual_block(make, x, f"stage{i}_block{j}", plan, stride, new, norm)
    return make.dense(make.global_avg_pool(x), "head", classes)


def residual_block(make, x, name, plan, stride, new_shape, norm):
    y = x
    for k, (features, size, step) in enumerate(plan, 1):
        y = make.conv(y, f"{name}.conv{k}", features, size, step, bias=False)
        y = make.batch_norm(y, f"{name}.bn{k}", *norm)
        y = make.relu(y) if k < len(plan) else y
    if new_shape:
        x = make.conv(x, f"{name}.shortcut_conv", plan[-1][0], 1, stride, bias=False)
        x = make.batch_norm(x, f"{name}.shortcut_bn", *norm)
    return make.relu(make.add(y, x))


NETWORKS = {"lenet5": lenet5, "selu_cnn": stacked, "separable_cnn": separable,
            "tf2_resnet18": resnet18, "monkey_cnn": monkey, "tf2_vgg16": vgg16,
            "resnet50": resnet50, "mobilenet_v2": mobilenet_v2}
# Fields of our own networks whose variant here is not the published one: torch pads
# both sides equally, or in a separate layer.
FIELDS = {"tf2_resnet18": {"padding": "symmetric"},
          "mobilenet_v2": {"padding": "symmetric"}}
