"""One small variant of every public family of classifiers, with random weights, for the zoo."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[nn.Module, Tensor]
#: The classes that each gets: fewer weights, and all heads alike.
CLASSES = 10

#: Name → side of the picture, and arguments. The smallest variant of each family, by weights and
#: number of modules.
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (96, {}),
    "convnext_tiny": (64, {}),
    "densenet121": (64, {}),
    "efficientnet_b0": (64, {}),
    "efficientnet_v2_s": (64, {}),
    "googlenet": (64, {"init_weights": False}),
    "inception_v3": (96, {"init_weights": False}),
    "maxvit_t": (224, {}),
    "mnasnet0_5": (64, {}),
    "mobilenet_v2": (64, {}),
    "mobilenet_v3_small": (64, {}),
    "regnet_x_400mf": (64, {}),
    "regnet_y_400mf": (64, {}),
    "resnet18": (64, {}),
    "resnet50": (64, {}),
    "resnext50_32x4d": (64, {}),
    "shufflenet_v2_x0_5": (64, {}),
    "squeezenet1_1": (96, {}),
    "swin_t": (64, {}),
    "swin_v2_t": (64, {}),
    "vgg11": (64, {}),
    "vgg11_bn": (64, {}),
    "vit_b_32": (224, {}),
    "wide_resnet50_2": (64, {}),
}
#: timm's module → (model, side, arguments); side None is the model's own.
TIMM: dict[str, tuple[str, int | None, dict[str, Any]]] = {
    "beit": ("beit_base_patch16_224", None, {"depth": 3, "embed_dim": 192, "num_heads": 3}),
    "byoanet": ("eca_halonext26ts", None, {}),
    "byobnet": ("test_byobnet", 96, {}),
    "cait": ("cait_xxs24_224", None, {"depth": 4}),
    "coat": ("coat_lite_tiny", None, {}),
    "convit": ("convit_tiny", None, {}),
    "convmixer": ("convmixer_1024_20_ks9_p14", 112, {}),
    "convnext": ("convnext_atto", 64, {}),
    "cpubone": ("cpubone_nano", 64, {}),
    "crossvit": ("crossvit_9_240", None, {}),
    "csatv2": ("csatv2", 512, {}),
    "cspnet": ("cs3darknet_focus_s", 64, {}),
    "cspnext": ("cspnext_tiny", 64, {}),
    "davit": ("davit_tiny", 64, {"depths": (1, 1, 1, 1)}),
    "deepseek_vit": ("deepseek_vit_412m", None, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "deit": ("deit_tiny_patch16_224", None, {"depth": 4}),
    "densenet": ("densenet121", 64, {}),
    "dla": ("dla46_c", 64, {}),
    "dpn": ("dpn48b", 64, {}),
    "edgenext": ("edgenext_xx_small", 64, {}),
    "efficientformer": ("efficientformer_l1", None, {}),
    "efficientformer_v2": ("efficientformerv2_s0", None, {}),
    "efficientnet": ("tinynet_e", 64, {}),
    "efficientvim": ("efficientvim_m1", 128, {}),
    "efficientvit_mit": ("efficientvit_b0", 64, {}),
    "efficientvit_msra": ("efficientvit_m1", None, {}),
    "eva": ("vit_tiny_patch16_dinov3_qkvb", None, {"depth": 4}),
    "fasternet": ("fasternet_t0", 64, {}),
    "fastvit": ("fastvit_t8", 64, {}),
    "focalnet": ("focalnet_tiny_srf", 64, {}),
    "gcvit": ("gcvit_xxtiny", None, {}),
    "gemma4_vit": ("gemma4_vit_167m", None, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "ghostnet": ("ghostnet_050", 64, {}),
    "hardcorenas": ("hardcorenas_a", 64, {}),
    "hgnet": ("hgnetv2_b0", 64, {}),
    "hiera": ("hiera_tiny_224", None, {}),
    "hieradet_sam2": ("sam2_hiera_tiny", 256, {"num_classes": CLASSES}),
    "hrnet": ("hrnet_w18_small", 64, {}),
    "iformer": ("iformer_t", 64, {}),
    "inception_next": ("inception_next_atto", 64, {}),
    "inception_resnet_v2": ("inception_resnet_v2", 96, {}),
    "inception_v3": ("inception_v3", 96, {}),
    "inception_v4": ("inception_v4", 96, {}),
    "lcnetv2": ("lcnetv2_small", 64, {}),
    "levit": ("levit_128", None, {}),
    "lowformer": ("lowformer_e1", 64, {}),
    "mambaout": ("test_mambaout", 96, {}),
    "maxxvit": ("maxvit_tiny_rw_224", None, {}),
    "metaformer": ("poolformer_s12", 64, {}),
    "mlp_mixer": ("mixer_s32_224", None, {}),
    "mobilenetv3": ("mobilenetv3_small_050", 64, {}),
    "mobilenetv5": ("mobilenetv5_base", 64, {}),
    "mobilevit": ("mobilevitv2_050", 64, {}),
    "mvitv2": ("mvitv2_tiny", None, {}),
    "naflexvit": ("naflexvit_base_patch16_gap", 96, {"depth": 3, "embed_dim": 192, "num_heads": 3}),
    "nasnet": ("nasnetalarge", 96, {}),
    "nest": ("nest_tiny", None, {}),
    "nextvit": ("nextvit_small", 64, {}),
    "nfnet": ("test_nfnet", 96, {}),
    "pit": ("pit_ti_224", None, {}),
    "pnasnet": ("pnasnet5large", 96, {}),
    "pvt_v2": ("pvt_v2_b0", 64, {}),
    "qwen3_vit": ("qwen3_vit_88m", None, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "rdnet": ("rdnet_tiny", 64, {}),
    "regnet": ("regnetx_002", 64, {}),
    "repghost": ("repghostnet_050", 64, {}),
    "repvit": ("repvit_m1_1", 64, {}),
    "res2net": ("res2net50_48w_2s", 64, {}),
    "resnest": ("resnest14d", 64, {}),
    "resnet": ("resnet10t", 96, {}),
    "resnetv2": ("resnetv2_18", 64, {}),
    "rexnet": ("rexnet_100", 64, {}),
    "selecsls": ("selecsls42", 64, {}),
    "senet": ("legacy_seresnet18", 64, {}),
    "sequencer": ("sequencer2d_s", None, {}),
    "shvit": ("shvit_s1", 128, {}),
    "sknet": ("skresnet18", 64, {}),
    "starnet": ("starnet_s050", 64, {}),
    "swiftformer": ("swiftformer_xs", None, {}),
    "swin_transformer": ("swin_tiny_patch4_window7_224", None, {"depths": (1, 1, 2, 2)}),
    "swin_transformer_v2": ("swinv2_tiny_window8_256", None, {"depths": (1, 1, 2, 2)}),
    "swin_transformer_v2_cr": ("swinv2_cr_tiny_224", None, {"depths": (1, 1, 2, 2)}),
    "tiny_vit": ("tiny_vit_5m_224", 224, {}),
    "tnt": ("tnt_s_patch16_224", None, {"depth": 4}),
    "tresnet": ("tresnet_m", 64, {}),
    "twins": ("twins_svt_small", None, {}),
    "vgg": ("vgg11", 64, {"mlp_ratio": 0.05}),
    "visformer": ("visformer_tiny", None, {}),
    "vision_transformer": ("vit_tiny_patch16_224", None, {"depth": 4}),
    "vision_transformer_hybrid": ("vit_tiny_r_s16_p8_224", None, {"depth": 4}),
    "vision_transformer_relpos": ("test_vit_relpos", None, {}),
    "vision_transformer_sam": ("samvit_base_patch16_224", None, {"depth": 2, "embed_dim": 192, "num_heads": 3}),
    "vitamin": ("vitamin_small_224", None, {}),
    "volo": ("volo_d1_224", None, {}),
    "vovnet": ("ese_vovnet19b_slim", 64, {}),
    "xception": ("legacy_xception", 96, {}),
    "xception_aligned": ("xception41p", 64, {}),
    "xcit": ("xcit_tiny_12_p8_224", None, {"depth": 4}),
}  # fmt: skip

_VIT: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128,
    "image_size": 64, "patch_size": 16,
}  # fmt: skip
_SWIN: dict[str, Any] = {
    "image_size": 64, "embed_dim": 32, "depths": [1, 1, 2], "num_heads": [2, 4, 8], "window_size": 4,
}  # fmt: skip
_CLIP: dict[str, Any] = {"vision_config": _VIT}
#: Class → (side, the configuration's own arguments).
IMAGES: dict[str, tuple[int, dict[str, Any]]] = {
    "BeitForImageClassification": (64, _VIT),
    "BitForImageClassification": (64, {"embedding_size": 32, "hidden_sizes": [64, 128], "depths": [1, 1], "num_groups": 8}),
    "CLIPForImageClassification": (64, _CLIP),
    "ConvNextForImageClassification": (64, {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]}),
    "ConvNextV2ForImageClassification": (64, {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1]}),
    "CvtForImageClassification": (64, {"embed_dim": [16, 32, 64], "num_heads": [1, 2, 4], "depth": [1, 2, 3]}),
    "Data2VecVisionForImageClassification": (64, _VIT),
    "DeiTForImageClassification": (64, _VIT),
    "DeiTForImageClassificationWithTeacher": (64, _VIT),
    "Dinov2ForImageClassification": (64, _VIT),
    "Dinov2WithRegistersForImageClassification": (64, _VIT),
    "DonutSwinForImageClassification": (64, _SWIN),
    "EfficientNetForImageClassification": (64, {"num_block_repeats": [1, 1, 1, 1, 1, 1, 1], "width_coefficient": 0.5, "hidden_dim": 640}),
    "FocalNetForImageClassification": (64, {"image_size": 64, "embed_dim": 32, "depths": [1, 1, 2], "focal_levels": [2, 2, 2], "focal_windows": [3, 3, 3]}),
    "HGNetV2ForImageClassification": (64, {}),
    "HieraForImageClassification": (64, {"image_size": [64, 64], "embed_dim": 32, "depths": [1, 1, 2], "num_heads": [1, 2, 4], "masked_unit_size": [4, 4], "query_stride": [2, 2], "num_query_pool": 2}),
    "IJepaForImageClassification": (64, _VIT),
    "LevitForImageClassification": (64, {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1], "key_dim": [16, 16, 16], "down_ops": [["Subsample", 16, 2, 4, 2, 2], ["Subsample", 16, 3, 4, 2, 2]]}),
    "LevitForImageClassificationWithTeacher": (64, {"image_size": 64, "hidden_sizes": [32, 48, 64], "num_attention_heads": [2, 3, 4], "depths": [1, 1, 1], "key_dim": [16, 16, 16], "down_ops": [["Subsample", 16, 2, 4, 2, 2], ["Subsample", 16, 3, 4, 2, 2]]}),
    "MetaClip2ForImageClassification": (64, _CLIP),
    "MobileNetV1ForImageClassification": (64, {"depth_multiplier": 0.25}),
    "MobileNetV2ForImageClassification": (64, {"depth_multiplier": 0.35}),
    "MobileViTForImageClassification": (64, {"image_size": 64, "hidden_sizes": [32, 48, 64], "neck_hidden_sizes": [8, 16, 24, 32, 48, 64, 128]}),
    "MobileViTV2ForImageClassification": (64, {"image_size": 64, "width_multiplier": 0.5}),
    "PoolFormerForImageClassification": (64, {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 64]}),
    "PPLCNetForImageClassification": (64, {}),
    "PvtForImageClassification": (64, {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 40, 64]}),
    "PvtV2ForImageClassification": (64, {"image_size": 64, "depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 40, 64]}),
    "RegNetForImageClassification": (64, {"embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 2, 1], "groups_width": 16}),
    "ResNetForImageClassification": (64, {"embedding_size": 16, "hidden_sizes": [32, 64, 64, 128], "depths": [1, 1, 1, 1]}),
    "SegformerForImageClassification": (64, {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 40, 64]}),
    "SiglipForImageClassification": (64, _CLIP),
    "SwiftFormerForImageClassification": (64, {"image_size": 64, "depths": [1, 1, 2, 1], "embed_dims": [16, 32, 48, 64]}),
    "SwinForImageClassification": (64, _SWIN),
    "Swinv2ForImageClassification": (64, _SWIN),
    "TextNetForImageClassification": (64, {}),
    "ViTForImageClassification": (64, _VIT),
    "ViTMSNForImageClassification": (64, _VIT),
    "PerceiverForImageClassificationLearned": (32, {"num_latents": 16, "d_latents": 64, "num_blocks": 1, "num_self_attends_per_block": 2, "num_self_attention_heads": 4, "num_cross_attention_heads": 1, "image_size": 32}),
}  # fmt: skip
_WAVE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "conv_dim": [32] * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 32,
}  # fmt: skip
_SEW: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "conv_dim": [32] * 13, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 32,
}  # fmt: skip
#: Class → (the shape of a sample, the configuration's own arguments).
AUDIO: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "ASTForAudioClassification": ((128, 64), {**_VIT, "max_length": 128, "num_mel_bins": 64}),
    "Data2VecAudioForSequenceClassification": ((8000,), {**_WAVE, "conv_pos_kernel_size": 5}),
    "HubertForSequenceClassification": ((8000,), _WAVE),
    "SEWForSequenceClassification": ((8000,), _SEW),
    "SEWDForSequenceClassification": ((8000,), _SEW),
    "UniSpeechForSequenceClassification": ((8000,), _WAVE),
    "UniSpeechSatForSequenceClassification": ((8000,), _WAVE),
    "Wav2Vec2ForSequenceClassification": ((8000,), _WAVE),
    "Wav2Vec2BertForSequenceClassification": ((100, 160), {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}),
    "Wav2Vec2ConformerForSequenceClassification": ((8000,), _WAVE),
    "WavLMForSequenceClassification": ((8000,), _WAVE),
    "WhisperForAudioClassification": ((80, 200), {"d_model": 64, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128, "max_source_positions": 100, "classifier_proj_size": 32}),
}  # fmt: skip


def public() -> dict[str, Callable[[], Built]]:
    """Every public family: its name in the zoo and what builds it."""
    found: dict[str, Callable[[], Built]] = {}
    for name in TORCHVISION:
        found[f"torchvision:{name}"] = lambda name=name: _torchvision(name)
    for family in TIMM:
        found[f"timm:{TIMM[family][0]}"] = lambda family=family: _timm(family)
    for name in IMAGES:
        found[f"transformers:{name}"] = lambda name=name: _images(name)
    for name in AUDIO:
        found[f"transformers:{name}"] = lambda name=name: _audio(name)
    return found


def _torchvision(name: str) -> Built:
    import torchvision

    side, options = TORCHVISION[name]
    model = torchvision.models.get_model(name, num_classes=CLASSES, **options)
    if name.startswith("vgg"):  # 411 MB of weights for three layers, past what a gate may have
        model.classifier = nn.Sequential(nn.Linear(25088, 64), nn.ReLU(), nn.Linear(64, CLASSES))
    return model, torch.randn(2, 3, side, side)


def _timm(family: str) -> Built:
    import timm

    name, side, options = TIMM[family]
    model = timm.create_model(name, **{"num_classes": CLASSES, **options})
    channels, own, _ = model.pretrained_cfg["input_size"]
    return model, torch.randn(2, channels, side or own, side or own)


def _images(name: str) -> Built:
    side, options = IMAGES[name]
    return _transformer(name, options), torch.randn(2, 3, side, side)


def _audio(name: str) -> Built:
    shape, options = AUDIO[name]
    return _transformer(name, options), torch.randn(2, *shape)


def _transformer(name: str, options: dict[str, Any]) -> nn.Module:
    import transformers

    kind = getattr(transformers, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: nn.Module = kind(kind.config_class(num_labels=CLASSES, **options))
    return module


def perturb(model: nn.Module, example: Tensor, seed: int = 0) -> None:
    """Weights as training leaves them: no norm at 1 and 0, no head or scale at zero, in place.

    The running statistics are those of random samples, so that no activation dies or explodes.
    """
    torch.manual_seed(seed)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.is_floating_point():
                continue
            if parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.1 if parameter.ndim < 2 else 0.05)
            elif parameter.ndim < 2:
                parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.abs().mean())
            del name
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum, norm.own_momentum = 1.0, norm.momentum
        model(example)
        for norm in norms:
            norm.eval()
            norm.momentum = norm.own_momentum
            del norm.own_momentum
            if norm.running_var is not None:
                mean = norm.running_var.mean()
                norm.running_var.mul_(0.5).add_(
                    mean * (0.5 + 0.1 * torch.rand_like(norm.running_var))
                )
