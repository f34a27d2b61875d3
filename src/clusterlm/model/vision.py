"""Vision towers and their projectors, counted exactly; their sizes stand in `vision_config`."""

from __future__ import annotations

from dataclasses import dataclass

from clusterlm.model.config import Config


@dataclass(frozen=True)
class Sight:
    """What a tower is counted from: its own section, the whole file, and the width of the text model."""

    vision: Config
    outer: Config
    text_width: int

    @property
    def width(self) -> int:
        return self.vision.hidden_size

    @property
    def layers(self) -> int:
        return self.vision.optional_integer("depth") or self.vision.layer_count

    @property
    def patch_weights(self) -> int:
        return self.width * self.channels * self.vision.integer("patch_size") ** 2

    @property
    def channels(self) -> int:
        return self.vision.optional_integer("num_channels") or self.vision.optional_integer("in_channels") or 3

    @property
    def patches(self) -> int:
        return (self.vision.integer("image_size") // self.vision.integer("patch_size")) ** 2

    @property
    def merged_width(self) -> int:
        """Neighbouring patches side by side, as the projector reads them."""
        return self.width * (self.vision.optional_integer("spatial_merge_size") or 2) ** 2


def block(width: int, inner: int, *, gated: bool = False, bias: bool = True, norm_bias: bool = True) -> int:
    """One transformer layer: four attention matrices, an MLP, two norms."""
    attention = 4 * width * width
    mlp = (3 if gated else 2) * width * inner
    biases = 4 * width + (2 if gated else 1) * inner + width
    norms = 2 * width * (2 if norm_bias else 1)
    return attention + mlp + norms + (biases if bias else 0)


def two_layers(inputs: int, inner: int, outputs: int, bias: bool = True) -> int:
    return inputs * inner + inner * outputs + (inner + outputs if bias else 0)


def siglip(sight: Sight) -> int:
    width, inner = sight.width, sight.vision.intermediate_size
    embedding = sight.patch_weights + width + sight.patches * width
    pooling = 0
    if sight.vision.flag("vision_use_head"):
        # A probe that attends to all patches, then a norm and an MLP.
        pooling = width + 4 * (width * width + width) + 2 * width + two_layers(width, inner, width)
    return embedding + sight.layers * block(width, inner) + 2 * width + pooling


def clip(sight: Sight) -> int:
    width = sight.width
    embedding = width + sight.patch_weights + (sight.patches + 1) * width
    first_and_last_norm = 4 * width
    return embedding + sight.layers * block(width, sight.vision.intermediate_size) + first_and_last_norm


def pixtral(sight: Sight) -> int:
    width = sight.width
    layer = block(width, sight.vision.intermediate_size, gated=True, bias=False, norm_bias=False)
    return sight.patch_weights + width + sight.layers * layer


TOWERS = {"siglip_vision_model": siglip, "clip_vision_model": clip, "pixtral": pixtral}


def named_tower(sight: Sight) -> int:
    """The tower that `vision_config` names."""
    kind = sight.vision.text("model_type") or ""
    if kind not in TOWERS:
        raise sight.outer.error(f"config.json has a vision tower {kind!r}; there is: {', '.join(TOWERS)}")
    return TOWERS[kind](sight)


def gemma3_vision(sight: Sight) -> int:
    projector = sight.width * sight.text_width + sight.width
    return siglip(sight) + projector


def paligemma_vision(sight: Sight) -> int:
    return siglip(sight) + sight.width * sight.text_width + sight.text_width


def llava_vision(sight: Sight) -> int:
    features = sight.outer.value("vision_feature_layer")
    inputs = sight.width * (len(features) if isinstance(features, list) else 1)
    bias = sight.outer.flag("multimodal_projector_bias")
    return named_tower(sight) + two_layers(inputs, sight.text_width, sight.text_width, bias)


def llava_next_vision(sight: Sight) -> int:
    newline = sight.text_width
    return llava_vision(sight) + newline


def mistral3_vision(sight: Sight) -> int:
    merging = (sight.outer.integer("spatial_merge_size") ** 2) * sight.width * sight.width
    return llava_vision(sight) + sight.width + merging


def idefics3_vision(sight: Sight) -> int:
    scale = sight.outer.integer("scale_factor")
    return siglip(sight) + sight.width * scale**2 * sight.text_width


def qwen2_vision(sight: Sight) -> int:
    width = sight.vision.integer("embed_dim")
    inner = int(width * sight.vision.number("mlp_ratio"))
    merged = width * sight.vision.integer("spatial_merge_size") ** 2
    patches = width * _video_patch(sight)
    # Here the section's hidden_size is the width that leaves the tower.
    merger = 2 * width + two_layers(merged, merged, sight.width)
    return patches + sight.layers * block(width, inner) + merger


def qwen2_5_vision(sight: Sight) -> int:
    width = sight.width
    layer = block(width, sight.vision.intermediate_size, gated=True, norm_bias=False)
    merger = width + two_layers(sight.merged_width, sight.merged_width, sight.vision.integer("out_hidden_size"))
    return width * _video_patch(sight) + sight.layers * layer + merger


def qwen3_vision(sight: Sight) -> int:
    width, merged = sight.width, sight.merged_width
    embedding = width * _video_patch(sight) + width + sight.vision.integer("num_position_embeddings") * width
    project = two_layers(merged, merged, sight.vision.integer("out_hidden_size"))
    deep = len(sight.vision.items("deepstack_visual_indexes")) * (2 * merged + project)
    return embedding + sight.layers * block(width, sight.vision.intermediate_size) + 2 * width + project + deep


def moonvit(sight: Sight) -> int:
    """Kimi-VL's tower (arXiv:2504.07491) and projector."""
    width, vision = sight.width, sight.vision
    positions = vision.integer("init_pos_emb_height") * vision.integer("init_pos_emb_width") * width
    tower = sight.patch_weights + width + positions + sight.layers * block(width, vision.intermediate_size) + 2 * width
    merged = 4 * width
    return tower + 2 * width + two_layers(merged, merged, sight.text_width)


def llama4_vision(sight: Sight) -> int:
    vision, width = sight.vision, sight.width
    inner = vision.intermediate_size
    embedding = width + sight.patch_weights + (sight.patches + 1) * width
    adapter = inner * vision.integer("projector_input_dim")
    adapter += vision.integer("projector_input_dim") * vision.integer("projector_output_dim")
    projector = vision.integer("vision_output_dim") * sight.text_width
    return embedding + sight.layers * block(width, inner) + 4 * width + adapter + projector


def _video_patch(sight: Sight) -> int:
    patch, frames = sight.vision.integer("patch_size"), sight.vision.integer("temporal_patch_size")
    return sight.channels * frames * patch**2
