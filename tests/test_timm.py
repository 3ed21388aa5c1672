"""A search touches no model: it takes steps on timm's families, and a ticket brings each one back."""

import pytest
import timm
import torch
from torch.nn import functional as F

import supermask as sm

# name -> (arguments of the factory, image size). One family each; the smallest member that timm offers,
# shrunk where its factory allows. Grouped, depthwise, standardized and deformed convolutions, windowed and
# convolutional attention, mixers, hybrids.
FAMILIES: dict[str, tuple[dict, int]] = {
    "beit_base_patch16_224": ({"img_size": 32, "embed_dim": 48, "depth": 2, "num_heads": 2}, 32),
    "botnet26t_256": ({"img_size": 64}, 64),
    "cait_xxs24_224": ({"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 2}, 32),
    "coat_tiny": ({"img_size": 64}, 64),
    "coatnet_pico_rw_224": ({"img_size": 64}, 64),
    "convit_tiny": ({"img_size": 32}, 32),
    "convmixer_768_32": ({}, 32),
    "convnext_atto": ({}, 32),
    "convnextv2_atto": ({}, 32),
    "crossvit_9_240": ({}, 240),
    "cspresnet50": ({}, 32),
    "deit_tiny_distilled_patch16_224": ({"img_size": 32}, 32),
    "densenet121": ({}, 32),
    "dla34": ({}, 32),
    "dpn48b": ({}, 32),
    "edgenext_xx_small": ({}, 64),
    "efficientformer_l1": ({}, 224),
    "efficientnet_b0": ({}, 32),
    "fastvit_t8": ({}, 64),
    "focalnet_tiny_srf": ({}, 64),
    "gcvit_xxtiny": ({"img_size": 64}, 64),
    "gernet_s": ({}, 32),
    "ghostnet_050": ({}, 32),
    "gmixer_24_224": ({"img_size": 32}, 32),
    "gmlp_ti16_224": ({"img_size": 32}, 32),
    "hrnet_w18_small": ({}, 64),
    "inception_v3": ({}, 96),
    "lambda_resnet26t": ({"img_size": 64}, 64),
    "lcnet_035": ({}, 32),
    "levit_128s": ({"img_size": 64}, 64),
    "maxvit_pico_rw_256": ({"img_size": 64}, 64),
    "mixer_s32_224": ({"img_size": 64}, 64),
    "mobilenetv3_small_050": ({}, 32),
    "mobilevit_xxs": ({}, 64),
    "mvitv2_tiny": ({"img_size": 64}, 64),
    "nf_resnet50": ({}, 32),
    "nfnet_l0": ({}, 32),
    "pit_ti_224": ({"img_size": 64}, 64),
    "poolformer_s12": ({}, 64),
    "pvt_v2_b0": ({}, 64),
    "regnetx_002": ({}, 32),
    "repvgg_a0": ({}, 32),
    "res2net50_14w_8s": ({}, 32),
    "resmlp_12_224": ({"img_size": 32}, 32),
    "resnest14d": ({}, 32),
    "resnet10t": ({}, 32),
    "resnetv2_50": ({}, 32),
    "resnext50_32x4d": ({}, 32),
    "rexnet_100": ({}, 32),
    "seresnet18": ({}, 32),
    "skresnet18": ({}, 32),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "embed_dim": 24, "depths": (2, 2)}, 56),
    "swinv2_cr_tiny_224": ({"img_size": 56, "embed_dim": 24, "depths": (2, 2)}, 56),
    "tnt_s_legacy_patch16_224": ({"depth": 2}, 224),
    "twins_pcpvt_small": ({"img_size": 64}, 64),
    "vgg11_bn": ({}, 32),
    "visformer_tiny": ({"img_size": 64}, 64),
    "vit_tiny_patch16_224": ({"img_size": 32, "depth": 3}, 32),
    "volo_d1_224": ({"img_size": 64}, 64),
    "xception41": ({}, 32),
    "xcit_nano_12_p16_224": ({"depth": 2}, 64),
}
# Large members, several seconds each.
SLOW = {
    "convmixer_768_32",
    "crossvit_9_240",
    "cspresnet50",
    "dla34",
    "efficientformer_l1",
    "focalnet_tiny_srf",
    "inception_v3",
    "mvitv2_tiny",
    "nfnet_l0",
    "poolformer_s12",
    "res2net50_14w_8s",
    "vgg11_bn",
}


@pytest.mark.filterwarnings(
    "ignore::UserWarning:timm", "ignore:.*meshgrid.*:UserWarning", "ignore::FutureWarning"
)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in FAMILIES]
)
def test_a_family_is_searched_and_comes_back_bit_for_bit(name, tmp_path):
    options, size = FAMILIES[name]
    torch.manual_seed(0)
    model = sm.randomize_(timm.create_model(name, num_classes=3, **options), seed=1, density=0.5)
    search = sm.EdgePopup(model, density=0.5, lr=0.05, momentum=0.9)
    before = {key: mask.clone() for key, mask in search.mask.items()}
    x, y = torch.randn(4, 3, size, size), torch.tensor([0, 1, 2, 0])
    for _ in range(2):
        search.zero_grad()
        output = model(x)
        logits = output[0] if isinstance(output, tuple) else output
        F.cross_entropy(logits, y).backward()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        search.step()
    assert any(not torch.equal(before[key], mask) for key, mask in search.mask.items())
    path = search.ticket().save(tmp_path / "net.ticket")
    torch.manual_seed(1)
    twin = timm.create_model(name, num_classes=3, **options)
    sm.Ticket.load(path).apply(twin)
    model.eval()
    twin.eval()
    with torch.no_grad():
        assert torch.equal(twin(x), model(x))
