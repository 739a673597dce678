"""Every network has the counts of an independent implementation."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import networks
from cnn_jax.networks.summary import layer_table
from cnn_jax.networks.summary_files import plain_text
from cnn_jax.networks.trace import trace_shapes
from cnn_jax.layers import Layers

PLAIN = Layers(conv="lax", pool="lax")  # the fastest to trace, with the same counts

# {network: (trainable parameters, running statistics, MACs in millions)}, computed with
# torch 2.13.0, torchvision 0.28.0, timm 1.0.31 and keras 3.15.1, independently of this
# code; GoogLeNet and Inception v3 with their auxiliary heads. None: no figure is known.
# mnist_cnn_pytorch and shapes_fcn, which have no published figure, are counted by hand.
PUBLISHED = {
    "lenet5": (61_706, 0, 0.4165),
    "lenet5_1998": (60_000, 0, None),
    "alexnet": (60_965_224, 0, 724.407),
    "alexnet_ungrouped": (62_378_344, 0, 1135.256),
    "alexnet_one_tower": (61_100_840, 0, 714.188),
    "caffenet": (60_965_224, 0, 724.407),
    "zfnet": (62_357_608, 0, 1168.033),
    "vgg11": (132_863_336, 0, 7609.090),
    "vgg11_bn": (132_868_840, 5_504, 7609.090),
    "vgg13": (133_047_848, 0, 11308.466),
    "vgg13_bn": (133_053_736, 5_888, 11308.466),
    "vgg16": (138_357_544, 0, 15470.264),
    "vgg16_bn": (138_365_992, 8_448, 15470.264),
    "vgg19": (143_667_240, 0, 19632.062),
    "vgg19_bn": (143_678_248, 11_008, 19632.062),
    "googlenet": (13_378_280, 0, 1591.044),
    "googlenet_bn": (13_385_816, 15_072, 1591.044),
    "googlenet_torchvision": (13_004_888, 15_072, None),
    "inception_v3": (27_161_264, 36_224, None),
    "inception_v3_keras": (23_817_352, 34_432, 5713.216),
    "resnet18": (11_689_512, 9_600, 1814.073),
    "resnet34": (21_797_672, 17_024, 3663.761),
    "resnet50": (25_557_032, 53_120, 3857.973),
    "resnet101": (44_549_160, 105_344, 7570.194),
    "resnet152": (60_192_808, 151_424, 11282.416),
    "resnet50_v1_5": (25_557_032, 53_120, 4089.184),
    "resnet101_v1_5": (44_549_160, 105_344, 7801.405),
    "resnet152_v1_5": (60_192_808, 151_424, 11513.627),
    "resnext50_32x4d": (25_028_904, 68_224, 4230.480),
    "resnext101_32x8d": (88_791_336, 202_880, 16414.015),
    "resnext101_64x4d": (83_455_272, 202_880, 15460.270),
    "wide_resnet50_2": (68_883_240, 68_224, 11398.021),
    "wide_resnet101_2": (126_886_696, 137_856, 22753.051),
    "resnet50_keras": (25_583_592, 53_120, 3857.973),
    "resnet101_keras": (44_601_832, 105_344, 7570.194),
    "resnet152_keras": (60_268_520, 151_424, 11282.416),
    "resnet18_v2": (11_687_720, 7_808, 1814.073),
    "resnet34_v2": (21_795_880, 15_232, 3663.761),
    "resnet50_v2": (25_549_352, 45_440, 4089.184),
    "resnet101_v2": (44_541_480, 97_664, 7801.405),
    "resnet152_v2": (60_185_128, 143_744, 11513.627),
    "resnet50_v2_keras": (25_568_360, 45_440, 3482.255),
    "resnet101_v2_keras": (44_577_896, 97_664, 7194.477),
    "resnet152_v2_keras": (60_236_904, 143_744, 10906.698),
    "cifar_resnet20": (269_722, 1_376, 40.551),
    "cifar_resnet32": (464_154, 2_272, 68.863),
    "cifar_resnet44": (658_586, 3_168, 97.174),
    "cifar_resnet56": (853_018, 4_064, 125.486),
    "cifar_resnet110": (1_727_962, 8_096, 252.888),
    "cifar_resnet1202": (19_421_274, None, 2829.239),
    "cifar_resnet110_preact": (1_727_962, 8_096, 252.888),
    "cifar_resnet164_preact": (1_703_258, 24_224, 244.501),
    "cifar_resnet1001_preact": (10_327_706, None, 1487.850),
    "densenet121": (7_978_856, 83_648, 2834.162),
    "densenet169": (14_149_480, 158_400, 3359.843),
    "densenet201": (20_013_928, 229_056, 4291.366),
    "densenet161": (28_681_000, 219_936, 7727.907),
    "densenet264": (33_337_704, 398_528, 5751.653),
    "cifar_densenet40_k12": (1_019_722, 18_096, 264.813),
    "cifar_densenet100_k12": (6_979_642, None, 1769.516),
    "cifar_densenet_bc100_k12": (769_162, 23_988, 287.930),
    "cifar_densenet_bc250_k24": (15_324_406, 257_976, 5418.786),
    "cifar_densenet_bc190_k40": (25_624_430, 256_960, 9301.946),
    "xception": (22_855_952, 54_528, 8357.403),
    "mobilenet_v1": (4_231_976, 21_888, 568.740),
    "mobilenet_v2": (3_504_872, 34_112, 300.774),
    "squeezenet1_0": (1_248_424, 0, 818.925),
    "squeezenet1_1": (1_235_496, 0, 349.152),
    "selu_cnn": (435_306, 0, 29.276),
    "separable_cnn": (184_234, 0, 4.066),
    "mnist_cnn": (34_826, 0, 2.441),
    "mnist_cnn_pytorch": (31_626, 0, 1.397),
    "monkey_cnn": (4_482_730, 0, 622.331),
    "baseline": (198_494, 12, 0.659),
    "tf2_lenet5": (62_006, 0, 0.652),
    "tf2_alexnet8": (9_638_474, 704, 117.910),
    "tf2_vgg16": (15_253_578, 8_448, 313.726),
    "tf2_inception10": (120_234, 1_184, 12.240),
    "tf2_resnet18": (11_173_962, 9_600, 555.423),
    "ai_edu_colour_cnn": (3_815, 64, 0.016),
    "ai_edu_colour_dnn": (109_126, 0, None),
    "ai_edu_shape_cnn": (19_941, 64, 0.241),
    "ai_edu_shape_dnn": (109_061, 0, None),
    "ai_edu_shape_colour_cnn": (20_217, None, None),
    "ai_edu_shape_colour_dnn": (109_321, None, None),
    "ai_edu_mnist_cnn": (12_042, 64, 0.329),
    # 784 x 64 + 64, 64 x 16 + 16, 16 x 10 + 10
    "ai_edu_mnist_dnn": (51_450, 0, None),
    "ai_edu_fashion_cnn": (694_218, 256, 0.888),
    "ai_edu_fashion_dnn": (109_770, None, None),
    "ai_edu_cifar_cnn": (1_250_858, 0, 20.741),
    "shapes_fcn": (64_694, 0, 7.094),
}
# The same figures for variants that are fields of a network, not rows of `NETWORKS`.
VARIANTS = [
    ("googlenet", {"aux": False}, (6_998_552, 0, 1582.672)),
    ("googlenet_bn", {"aux": False}, (7_005_832, None, 1582.672)),
    ("googlenet_torchvision", {"aux": False}, (6_624_904, None, 1498.376)),
    ("inception_v3", {"aux": False}, (23_834_568, 34_432, 5713.216)),
    ("cifar_resnet20", {"shortcut": "B"}, (272_474, 1_376 + 192, 40.551 + 0.262)),
    ("cifar_resnet32", {"shortcut": "B"}, (466_906, 2_272 + 192, 68.863 + 0.262)),
    ("cifar_resnet44", {"shortcut": "B"}, (661_338, 3_168 + 192, 97.174 + 0.262)),
    ("cifar_resnet56", {"shortcut": "B"}, (855_770, 4_064 + 192, 125.486 + 0.262)),
    ("cifar_resnet110", {"shortcut": "B"}, (1_730_714, 8_096 + 192, 252.888 + 0.262)),
    # Another place of the first activation: test_position_of_the_first_activation.
    ("cifar_resnet110_preact", {"stem_activation": True}, (1_727_962, 8_096, 252.888)),
    ("resnet18_v2", {"stem_activation": True}, (11_687_720, 7_808, 1814.073)),
    ("resnet50_v2", {"stem_activation": True}, (25_549_352, 45_440, 4089.184)),
    # Widths, counted by keras 3.15.1; the paper gives 41, 149 and 325 M.
    ("mobilenet_v1", {"width": 0.25}, (470_072, None, 41.030)),
    ("mobilenet_v1", {"width": 0.5}, (1_331_592, None, 149.497)),
    ("mobilenet_v1", {"width": 0.75}, (2_585_560, None, 325.400)),
    ("mobilenet_v2", {"width": 0.35}, (1_677_128, 14_080, 59.286)),
    ("mobilenet_v2", {"width": 0.75}, (2_636_424, 26_640, 209.070)),
    ("mobilenet_v2", {"width": 1.4}, (6_108_776, 47_936, 582.196)),
]
# Other values of a field that the fast tests check with one value.
VARIANTS_AGAIN = [case for case in VARIANTS if case[:2] in (
    ("googlenet_bn", {"aux": False}), ("googlenet_torchvision", {"aux": False}),
    ("resnet50_v2", {"stem_activation": True}),
    ("cifar_resnet110_preact", {"stem_activation": True}),
    ("mobilenet_v1", {"width": 0.25}), ("mobilenet_v1", {"width": 0.75}),
    ("mobilenet_v2", {"width": 0.75}), ("mobilenet_v2", {"width": 1.4}))]
# Checked with -m slow: further depths of a variant that the fast tests check once.
SLOW = {"cifar_resnet32", "cifar_resnet44", "cifar_resnet56", "cifar_resnet110",
        "cifar_resnet1202", "cifar_resnet164_preact", "cifar_resnet1001_preact",
        "cifar_densenet100_k12", "cifar_densenet_bc100_k12", "cifar_densenet_bc250_k24",
        "cifar_densenet_bc190_k40", "densenet161", "densenet169", "densenet201",
        "densenet264", "inception_v3_keras", "resnet34", "resnet34_v2",
        "resnet101", "resnet152", "resnext101_32x8d", "resnext101_64x4d",
        "wide_resnet101_2", "vgg13", "vgg13_bn", "vgg16_bn", "vgg19", "vgg19_bn",
        *(f"resnet{depth}_{variant}" for depth in (101, 152)
          for variant in ("v1_5", "v2", "keras", "v2_keras"))}


def test_every_registered_network_is_in_the_table():
    assert set(networks.NETWORKS) == set(PUBLISHED)


def shape_of(name):
    return networks.NETWORKS[name].input_shape


def variables_of(model, shape):
    return networks.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))


def check(name, fields, figures):
    params, stats, macs = figures
    table = layer_table(networks.create(name, layers=PLAIN, **fields), shape_of(name))
    assert table.params == params
    assert sum(row.params for row in table.rows) == params
    if stats is not None:
        assert table.stats == stats
    if macs is not None:
        # The published figures are rounded: to three decimals, the first one to four.
        digits = 4 if name == "lenet5" else 3
        step = 10 ** -digits * (2 if "B" in fields.values() else 1)
        assert abs(table.macs / 1e6 - macs) < 0.5001 * step
    assert table.rows[-1].name == "head"  # features, freezing and transfer rely on it
    unknown = [row.name for row in table.rows if row.field is None]
    if networks.variant_fields(name).get("aux_adaptive"):  # no single window and stride
        unknown = [row for row in unknown if not row.startswith("aux")]
    assert not unknown
    check_text(table)


def check_text(table):
    lines = plain_text(table).splitlines()
    assert len(lines) == len(table.rows) + 6
    assert max(map(len, lines)) <= 100
    assert f"parameters {table.params:,} " in lines[-1]
    assert f"MACs {table.macs / 1e6:,.3f} M" in lines[-1]


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
    for name in PUBLISHED])
def test_parameters_statistics_and_macs_are_the_published_ones(name):
    check(name, {}, PUBLISHED[name])


@pytest.mark.parametrize("name, fields, figures", [
    pytest.param(*case, marks=pytest.mark.slow)
    if case[0] in SLOW or case in VARIANTS_AGAIN else case for case in VARIANTS])
def test_variants_have_the_published_figures(name, fields, figures):
    check(name, fields, figures)


@pytest.mark.parametrize("name", ["alexnet_ungrouped", "mobilenet_v2", "resnet18",
                                  "separable_cnn"])
def test_the_other_settings_change_no_parameter(name):
    shape = (1, *shape_of(name))

    def tree(**settings):
        model = networks.create(name, layers=Layers(**settings))
        return variables_of(model, shape)
    assert tree() == tree(conv="im2col", pool="windows", dtype="bfloat16", init="keras",
                          bn="torch")


def test_caffenet_pools_before_it_normalizes():
    def order(name):
        rows = layer_table(networks.create(name, layers=PLAIN), (227, 227, 3)).rows
        return [row.name for row in rows if row.name.startswith("conv1")]
    assert order("alexnet") == ["conv1", "conv1_act", "conv1_lrn", "conv1_pool"]
    assert order("caffenet") == ["conv1", "conv1_act", "conv1_pool", "conv1_lrn"]


@pytest.mark.parametrize("name, size", [("alexnet_one_tower", 6), ("vgg11", 7)])
def test_averaged_to_one_size_images_of_any_size_have_the_same_parameters(name, size):
    averaged = networks.create(name, layers=PLAIN, flatten_size=size)
    published = variables_of(networks.create(name, layers=PLAIN), (1, 224, 224, 3))
    for shape in ((1, 64, 83, 3), (1, 224, 224, 3)):
        assert variables_of(averaged, shape) == published


@pytest.mark.parametrize("name, fields, stem, source", [
    # By default, the shortcut branches off after the activation only in a first block
    # that changes the number of features (a bottleneck). In the paper's appendix the
    # first activation follows the stem's convolution, so every shortcut starts from
    # activated input.
    ("cifar_resnet110_preact", {"depth": 8}, ["stem_conv"], "stem_conv"),
    ("resnet18_v2", {}, ["stem_conv", "stem_pool"], "stem_pool"),
    ("resnet50_v2", {}, ["stem_conv", "stem_pool"], "stage1_block1/act1"),
    ("cifar_resnet164_preact", {"depth": 11}, ["stem_conv"], "stage1_block1/act1"),
    ("cifar_resnet110_preact", {"depth": 8, "stem_activation": True},
     ["stem_conv", "stem_bn", "stem_act"], "stem_act"),
    ("resnet18_v2", {"stem_activation": True},
     ["stem_conv", "stem_bn", "stem_act", "stem_pool"], "stem_pool"),
    ("resnet50_v2", {"stem_activation": True},
     ["stem_conv", "stem_bn", "stem_act", "stem_pool"], "stem_pool")])
def test_position_of_the_first_activation(name, fields, stem, source):
    model = networks.create(name, layers=PLAIN, **fields)
    calls = {call.name: call for call in trace_shapes(model, None, (32, 32, 3))}
    assert [name for name in calls if name.startswith("stem")] == stem
    split = calls.get("stage1_block1/shortcut_conv",
                      calls["stage1_block1/add"]).inputs[-1]
    assert split is calls[source].output
    assert ("stage1_block1/bn1" in calls) == ("stem_bn" not in calls)


def test_the_resnet_of_the_course_pads_and_normalizes_like_keras():
    model = networks.create("tf2_resnet18")
    norm = model.layers.batch_norm(train=True, momentum=0.9)
    assert (model.padding, norm.epsilon, norm.momentum) == ("SAME", 1e-3, 0.99)
    asked = networks.create("tf2_resnet18", layers=Layers(bn="torch")).layers
    assert asked.bn == "torch" and networks.create("resnet18").layers.bn == "paper"


def test_auxiliary_logits_are_sown_while_training_only():
    model = networks.create("googlenet", 5, layers=PLAIN)
    images = jnp.zeros((2, 96, 96, 3))
    variables = variables_of(model, images.shape)
    assert set(variables) == {"params"}

    def apply(train):
        return jax.eval_shape(lambda v: model.apply(
            v, images, train=train, mutable=["aux_logits"],
            rngs={"dropout": jax.random.key(1)}), variables)
    logits, sown = apply(train=True)
    assert logits.shape == (2, 5)
    shapes = {name: [x.shape for x in jax.tree.leaves(head)]
              for name, head in sown["aux_logits"].items()}
    assert shapes == {"aux1": [(2, 5)], "aux2": [(2, 5)]}
    assert "aux_logits" not in apply(train=False)[1]
