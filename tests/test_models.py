"""Networks by name: the published sizes, and a factory value that a stranger's file may hold."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from supermask.models import (
    UnknownModelError,
    build,
    create_model,
    list_models,
    register_model,
    registry,
)

OWN = list_models()
FACTORY = "supermask_factory"

#: Smallest image: each network halves it (or cuts it) so often that below this nothing is left.
FAMILIES = ("airbench", "lenet", "conv", "folded", "resnet", "vgg")
LEAST_SIZE = {
    "airbench": 9,
    "lenet-5": 16,
    "conv-2": 2,
    "conv-4": 4,
    "conv-6": 8,
    "conv-8": 16,
    "folded-resnet-20": 4,
    "folded-resnet-32": 4,
    "folded-resnet-44": 4,
    "folded-resnet-56": 4,
    "folded-resnet-110": 4,
    "resnet-20": 4,
    "resnet-32": 4,
    "resnet-44": 4,
    "resnet-56": 4,
    "resnet-110": 4,
    "resnet-18-cifar": 8,
    "vgg-11": 16,
    "vgg-13": 16,
    "vgg-16": 16,
    "vgg-19": 16,
}


def on_meta(name: str, **arguments: object) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **arguments)


def weight_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.ndim > 1)


def parameter_count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


# Sizes.


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("conv-2", 4_300_992),
        ("conv-4", 2_425_024),
        ("conv-6", 2_261_184),
        ("conv-8", 5_275_840),
        ("resnet-20", 270_896),
    ],
)
def test_weights_are_as_published_on_cifar(name: str, weights: int) -> None:
    assert weight_count(on_meta(name)) == weights


def test_lenet_300_100_has_the_published_weights_and_biases() -> None:
    arguments = {"in_channels": 1, "image_size": 28}
    assert parameter_count(on_meta("lenet-300-100", **arguments)) == 266_200
    assert parameter_count(on_meta("lenet-300-100", bias=True, **arguments)) == 266_200 + 410
    assert parameter_count(on_meta("lenet-5", bias=True, **arguments)) == 431_080


@pytest.mark.parametrize(
    ("depth", "published"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_resnets_differ_from_the_zero_padded_ones_by_their_shortcuts(depth: int, published: int) -> None:
    # The known totals are of the paper's shortcuts, which have no parameters. Ours have two 1x1
    # convolutions, 16 to 32 and 32 to 64, and the two parameters per channel of their norms.
    shortcuts = 16 * 32 + 32 * 64 + 2 * (32 + 64)
    assert parameter_count(on_meta(f"resnet-{depth}")) == published + shortcuts


@pytest.mark.parametrize(
    ("name", "published", "conv_biases"),
    [
        ("vgg-11", 9_231_114, 2_752),
        ("vgg-13", 9_416_010, 2_944),
        ("vgg-16", 14_728_266, 4_224),
        ("vgg-19", 20_040_522, 5_504),
        ("resnet-18-cifar", 11_173_962, 0),
    ],
)
def test_parameters_are_the_known_totals_less_biases_before_norms(
    name: str, published: int, conv_biases: int
) -> None:
    assert parameter_count(on_meta(name)) == published - conv_biases


# What they compute.


@pytest.mark.parametrize(("name", "convolutions"), [("conv-2", 2), ("conv-4", 4), ("conv-6", 6)])
def test_conv_n_computes_what_the_paper_describes(name: str, convolutions: int) -> None:
    model = create_model(name, bias=True, in_channels=2, image_size=13, num_classes=5)
    images = torch.randn(3, 2, 13, 13)
    tensors = list(model.parameters())
    weights, biases = tensors[::2], tensors[1::2]
    x = images
    for index in range(convolutions):
        x = F.relu(F.conv2d(x, weights[index], biases[index], padding=1))
        if index % 2:
            x = F.max_pool2d(x, 2)
    x = x.flatten(1)
    for index in (convolutions, convolutions + 1):
        x = F.relu(F.linear(x, weights[index], biases[index]))
    expected = F.linear(x, weights[-1], biases[-1])
    torch.testing.assert_close(model(images), expected)
    assert [w.shape[0] for w in weights[-3:]] == [256, 256, 5]


def test_lenet_300_100_on_digits_computes_three_linear_layers() -> None:
    model = create_model("lenet-300-100", in_channels=1, image_size=8)
    first, second, third = model.parameters()
    assert [tuple(w.shape) for w in (first, second, third)] == [(300, 64), (100, 300), (10, 100)]
    images = torch.randn(4, 1, 8, 8)
    expected = F.relu(F.relu(images.flatten(1) @ first.T) @ second.T) @ third.T
    torch.testing.assert_close(model(images), expected)


def test_residual_blocks_add_their_shortcut() -> None:
    model = create_model("resnet-20", image_size=8).eval()
    blocks = [block for stage in model.stages for block in stage]
    for block in blocks:
        nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 8, 8)
    torch.testing.assert_close(blocks[0](x), x)
    assert blocks[3](x).shape == (2, 32, 4, 4)
    torch.testing.assert_close(blocks[3](x), F.relu(blocks[3].shortcut(x)))
    assert sum(not isinstance(block.shortcut, nn.Identity) for block in blocks) == 2


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(("channels", "size", "classes"), [(1, 28, 10), (3, 37, 7)])
def test_images_of_other_sizes_give_logits(name: str, channels: int, size: int, classes: int) -> None:
    model = on_meta(name, num_classes=classes, in_channels=channels, image_size=size)
    images = torch.empty(2, channels, size, size, device="meta")
    assert model(images).shape == (2, classes)


@pytest.mark.parametrize(("name", "least"), LEAST_SIZE.items())
def test_smallest_image_works_and_a_smaller_one_is_refused(name: str, least: int) -> None:
    images = torch.empty(2, 3, least, least, device="meta")
    assert on_meta(name, image_size=least)(images).shape == (2, 10)
    with pytest.raises(ValueError, match=rf"{name} needs images of at least {least}x{least}"):
        create_model(name, image_size=least - 1)


# Options.


def test_width_multiplies_every_hidden_layer() -> None:
    assert [p.shape[0] for p in on_meta("conv-2", width=0.5).parameters()] == [32, 32, 128, 128, 10]
    assert [p.shape[0] for p in on_meta("lenet-300-100", width=2).parameters()] == [600, 200, 10]
    assert on_meta("resnet-20", width=1.5).fc.in_features == 96
    assert on_meta("vgg-11", width=0.25).fc.in_features == 128
    assert min(p.shape[0] for p in on_meta("conv-2", width=1e-6).parameters()) == 1


def test_shortcuts_follow_the_stride_where_widths_do_not_grow() -> None:
    model = on_meta("resnet-20", width=1e-3)
    assert model.fc.in_features == 1
    assert model(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name in OWN if name.startswith(("resnet", "vgg"))])
def test_norms_without_affine_have_no_parameters(name: str) -> None:
    plain, affine = on_meta(name, affine=False), on_meta(name)
    norms = [module for module in plain.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert not any(list(norm.parameters()) for norm in norms)
    assert weight_count(plain) == weight_count(affine)


def test_vgg_without_norms_has_none() -> None:
    model = on_meta("vgg-11", batch_norm=False)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert weight_count(model) == weight_count(on_meta("vgg-11"))


# The value from which a network is built again.


@pytest.mark.parametrize("name", OWN)
def test_factory_value_rebuilds_every_own_model(name: str) -> None:
    options = {"num_classes": 3, "in_channels": 1, "image_size": 17, "width": 0.5}
    model = on_meta(name, **options)
    value = json.loads(json.dumps(getattr(model, FACTORY)))
    assert value == getattr(model, FACTORY)
    assert value["name"] == name
    assert options.items() <= value["args"].items()
    with torch.device("meta"):
        again, direct = build(value), create_model(value["name"], **value["args"])
    assert shapes(again) == shapes(direct) == shapes(model)
    assert getattr(again, FACTORY) == value


def test_factory_value_survives_deepcopy_as_a_value_of_its_own() -> None:
    model = create_model("lenet-300-100", in_channels=1, image_size=8)
    value = getattr(copy.deepcopy(model), FACTORY)
    assert value == getattr(model, FACTORY)
    assert value is not getattr(model, FACTORY)


def test_defaults_are_written_into_the_factory_value() -> None:
    value = getattr(on_meta("lenet-5", image_size=28), FACTORY)
    assert value["args"] == {
        "num_classes": 10,
        "in_channels": 3,
        "image_size": 28,
        "bias": False,
        "width": 1.0,
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"name": "conv-2"}, "exactly the keys"),
        ({"name": "conv-2", "args": {}, "code": "x"}, "exactly the keys"),
        (["conv-2", {}], "exactly the keys"),
        ({"name": 3, "args": {}}, "is text, not int"),
        ({"name": "x" * 200, "args": {}}, "not a model name"),
        ({"name": "conv-2\n", "args": {}}, "not a model name"),
        ({"name": "../conv-2 ", "args": {}}, "not a model name"),
        ({"name": "hf-hub:a/b", "args": {}}, "nothing is downloaded"),
        ({"name": "local-dir:/tmp", "args": {}}, "nothing is downloaded"),
        ({"name": "conv-2", "args": [1]}, "not a mapping"),
        ({"name": "conv-2", "args": {"a b": 1}}, "not an argument's name"),
        ({"name": "conv-2", "args": {3: 1}}, "not an argument's name"),
        ({"name": "conv-2", "args": {"name": "conv-4"}}, "no option 'name'"),
        ({"name": "conv-2", "args": {"num_classes": 2**20 + 1}}, "beyond"),
        ({"name": "conv-2", "args": {"num_classes": -(10**5000)}}, "beyond"),
        ({"name": "conv-2", "args": {"width": float("inf")}}, "finite"),
        ({"name": "conv-2", "args": {"width": 65}}, "up to 64"),
        ({"name": "conv-2", "args": {"bias": "x" * 200}}, "200 characters"),
        ({"name": "conv-2", "args": {"bias": [0] * 17}}, "list of 17"),
        ({"name": "conv-2", "args": {"bias": [[0]]}}, "is a list"),
        ({"name": "conv-2", "args": {"bias": {"a": 1}}}, "is a dict"),
        ({"name": "conv-2", "args": {f"a{i}": 0 for i in range(33)}}, "33 arguments"),
        ({"name": "timm/resnet18", "args": {"pretrained": True}}, "would load weights"),
        ({"name": "resnet18", "args": {"pretrained_cfg": "x"}}, "would load weights"),
    ],
)
def test_build_refuses_what_is_no_factory_value(value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build(value)


# Wrong calls.


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"num_classes": 0}, "num_classes is a whole number"),
        ({"num_classes": True}, "num_classes is a whole number"),
        ({"in_channels": 1.5}, "in_channels is a whole number"),
        ({"image_size": -1}, "image_size is a whole number"),
        ({"depth": 3}, "has no option 'depth' .* width, affine"),
        ({"width": 0}, "above 0"),
        ({"width": True}, "width of resnet-20 is a number"),
        ({"width": "2"}, "width of resnet-20 is a number"),
        ({"affine": 1}, "true or false"),
        ({"norm": nn.BatchNorm2d}, "norm is a type"),
        *(
            ({key: "x"}, f"{key}='x' would load weights")
            for key in ("pretrained", "weights", "weights_backbone", "checkpoint_path", "cache_dir")
        ),
        *(({key: "x"}, f"{key}='x' would load weights") for key in ("pretrained_cfg_overlay", "file", "url")),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        create_model("resnet-20", **arguments)


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("resnet-21", "resnet-20"),
        ("LeNet-300-100x", "lenet-300-100"),
        ("timm/resnt18", "timm/resnet18"),
        ("torchvision/resnt18", "torchvision/resnet18"),
        ("somewhere/resnet18", "resnet18"),
    ],
)
def test_unknown_name_suggests_close_ones(name: str, close: str) -> None:
    with pytest.raises(UnknownModelError, match=rf"no model '{name}'.*list_models.*; did you mean .*{close}"):
        create_model(name)


def test_models_that_would_download_a_backbone_are_unknown() -> None:
    with pytest.raises(UnknownModelError):
        create_model("torchvision/fasterrcnn_resnet50_fpn")


# The networks of others.


@pytest.mark.parametrize(
    ("name", "full_name", "size"),
    [
        ("timm/test_resnet", "timm/test_resnet", 33),
        ("timm/test_vit", "timm/test_vit", 48),
        ("timm/vit_tiny_patch16_224.augreg_in21k", "timm/vit_tiny_patch16_224.augreg_in21k", 32),
        ("resnet18", "timm/resnet18", 32),
        ("torchvision/resnet18", "torchvision/resnet18", 32),
        ("shufflenet_v2_x0_5", "torchvision/shufflenet_v2_x0_5", 32),
        ("torchvision/vit_b_16", "torchvision/vit_b_16", 32),
        ("torchvision/maxvit_t", "torchvision/maxvit_t", 224),
        ("torchvision/googlenet", "torchvision/googlenet", 64),
    ],
)
def test_networks_of_others_are_built_and_rebuilt(name: str, full_name: str, size: int) -> None:
    model = on_meta(name, num_classes=4, image_size=size)
    value = getattr(model, FACTORY)
    assert value == {
        "name": full_name,
        "args": {"num_classes": 4, "in_channels": 3, "image_size": size},
    }
    assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 4)
    with torch.device("meta"):
        assert shapes(build(value)) == shapes(model)


def test_timm_adapts_to_gray_images_and_takes_options() -> None:
    model = create_model("test_vit", in_channels=1, image_size=32, depth=1, patch_size=(8, 8))
    assert len(model.blocks) == 1
    assert getattr(model, FACTORY)["args"]["patch_size"] == [8, 8]
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("torchvision/resnet18", {"in_channels": 1}, "takes images of 3 channels"),
        ("timm/resnet18", {"in_chans": 1}, "in_chans is called in_channels"),
        ("timm/test_vit", {"img_size": 64}, "img_size is called image_size"),
        ("timm/resnet18", {"no_such_option": 1}, r"timm/resnet18 cannot be built .*no_such_option"),
        ("timm/resnet18.no_such_tag", {}, "cannot be built with .*no_such_tag"),
    ],
)
def test_what_others_cannot_build_is_a_clear_error(
    name: str, arguments: dict[str, object], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        create_model(name, **arguments)


# The registry.


def test_families_are_listed() -> None:
    assert list_models("lenet") == ["lenet-5", "lenet-300-100"]
    assert list_models("resnet")[-2:] == ["resnet-56", "resnet-110"]
    assert set(OWN) == {n for f in FAMILIES for n in list_models(f)}
    assert "timm/resnet50" in list_models("timm")
    assert "torchvision/resnet50" in list_models("torchvision")
    assert "torchvision/fasterrcnn_resnet50_fpn" not in list_models("torchvision")
    with pytest.raises(ValueError, match="no model family 'bert'; choose from airbench, conv, folded, lenet"):
        list_models("bert")


def test_registered_factory_is_built_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))

    @register_model("tiny-1")
    def tiny(num_classes: int, in_channels: int, image_size: int, *, depth: int = 2) -> nn.Module:
        return nn.Sequential(*(nn.Linear(num_classes, num_classes) for _ in range(depth)))

    model = create_model("tiny-1", depth=3)
    assert len(model) == 3
    assert len(build(getattr(model, FACTORY))) == 3
    assert list_models("tiny") == ["tiny-1"]
    with pytest.raises(ValueError, match="already registered"):
        register_model("tiny-1")(tiny)


def test_unfit_factories_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", {})

    def without_size(num_classes: int, in_channels: int) -> nn.Module:
        return nn.Identity()

    def without_default(num_classes: int, in_channels: int, image_size: int, depth: int) -> nn.Module:
        return nn.Identity()

    with pytest.raises(ValueError, match="must also take image_size"):
        register_model("a")(without_size)
    with pytest.raises(ValueError, match="'depth' of 'a' needs a default"):
        register_model("a")(without_default)
    with pytest.raises(ValueError, match="'Timm/x' is not"):
        register_model("Timm/x")
    assert registry.registered_names() == []
