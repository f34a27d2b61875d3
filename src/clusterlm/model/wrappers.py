"""The table of models that see: a decoder inside, a vision tower beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clusterlm.model import vision
from clusterlm.model.config import Config
from clusterlm.model.decoder import Decoder
from clusterlm.model.shape import ModelShape

TEXT_SECTIONS = ("text_config", "llm_config", "language_config")

SAME_AS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "kimi_k2": "deepseek_v3",
}
"""Text models that their wrappers name anew."""

# LlamaConfig and MistralConfig: LLaVA's published files write down only what differs.
LLAMA_TEXT = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": LLAMA_TEXT,
    "mistral": {**LLAMA_TEXT, "intermediate_size": 14336, "max_position_embeddings": 131072},
}
SIGLIP = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "image_size": 224,
    "patch_size": 16,
    "vision_use_head": True,
}
PIXTRAL = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "patch_size": 16}
VISION_DEFAULTS: dict[str, dict[str, Any]] = {
    "siglip_vision_model": SIGLIP,
    "clip_vision_model": {**SIGLIP, "patch_size": 32},
    "pixtral": PIXTRAL,
}
QWEN_3_TOWER = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "patch_size": 16,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "num_position_embeddings": 2304,
    "out_hidden_size": 3584,
}


@dataclass(frozen=True)
class Wrapper:
    """One architecture: its text model where the file names none, its tower, and what their files leave out."""

    text: str
    tower: Callable[[vision.Sight], int]
    tower_type: str = ""
    tower_defaults: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    tied: bool | None = None
    """Where neither the file nor its text section says; None: as the text model alone."""

    def shape(self, raw: Config, model_type: str, decoders: Mapping[str, Decoder]) -> ModelShape:
        text, text_type = self._text(raw)
        if text_type not in decoders:
            raise raw.error(f"config.json has a text model {text_type!r} that is not in clusterlm's table")
        shape = decoders[text_type].shape(text, text_type)
        return replace(
            shape,
            architecture=model_type,
            other_parameters=shape.other_parameters + self._tower_parameters(raw, shape.hidden_size),
        )

    def _text(self, raw: Config) -> tuple[Config, str]:
        """Files before transformers 4.52 keep Qwen's text sizes outside any section."""
        section = next((raw.section(key) for key in TEXT_SECTIONS if raw.value(key)), raw)
        named = section.text("model_type") or self.text
        text_type = SAME_AS.get(named, self.text if section is raw else named)
        values = {**TEXT_DEFAULTS.get(text_type, {}), **section.values}
        if raw.value("tie_word_embeddings") is not None:
            values["tie_word_embeddings"] = raw.value("tie_word_embeddings")
        elif self.tied is not None:
            values.setdefault("tie_word_embeddings", self.tied)
        if raw.value("dtype"):
            values["dtype"] = raw.value("dtype")
        return Config(values, raw.model), text_type

    def _tower_parameters(self, raw: Config, text_width: int) -> int:
        kind = raw.section("vision_config").text("model_type") or self.tower_type
        defaults = {"model_type": kind, **VISION_DEFAULTS.get(kind, {}), **self.tower_defaults}
        section = raw.section("vision_config", defaults)
        return self.tower(vision.Sight(section, raw.with_defaults(self.defaults), text_width))


LLAVA = {"multimodal_projector_bias": True}
QWEN_3 = Wrapper("qwen3", vision.qwen3_vision, tower_defaults=QWEN_3_TOWER, tied=False)
KIMI = {"intermediate_size": 4304, "init_pos_emb_height": 64, "init_pos_emb_width": 64}

WRAPPERS: dict[str, Wrapper] = {
    "gemma3": Wrapper("gemma3_text", vision.gemma3_vision, "siglip_vision_model"),
    "paligemma": Wrapper("gemma", vision.paligemma_vision, "siglip_vision_model"),
    "llava": Wrapper("llama", vision.llava_vision, "clip_vision_model", defaults=LLAVA),
    "llava_next": Wrapper("llama", vision.llava_next_vision, "clip_vision_model", defaults=LLAVA),
    "mistral3": Wrapper("mistral", vision.mistral3_vision, "pixtral", defaults={"spatial_merge_size": 2}),
    "idefics3": Wrapper("llama", vision.idefics3_vision, "siglip_vision_model", defaults={"scale_factor": 2}),
    "smolvlm": Wrapper("llama", vision.idefics3_vision, "siglip_vision_model", defaults={"scale_factor": 2}),
    "qwen2_vl": Wrapper(
        "qwen2",
        vision.qwen2_vision,
        tower_defaults={
            "depth": 32,
            "embed_dim": 1280,
            "hidden_size": 3584,
            "mlp_ratio": 4,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
        },
        tied=False,
    ),
    "qwen2_5_vl": Wrapper(
        "qwen2",
        vision.qwen2_5_vision,
        tower_defaults={
            "depth": 32,
            "hidden_size": 3584,
            "intermediate_size": 3420,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": 3584,
        },
        tied=False,
    ),
    "qwen3_vl": replace(QWEN_3, tower_defaults={**QWEN_3_TOWER, "deepstack_visual_indexes": [8, 16, 24]}),
    "qwen3_vl_moe": replace(
        QWEN_3, text="qwen3_moe", tower_defaults={**QWEN_3_TOWER, "deepstack_visual_indexes": [8, 16, 24]}
    ),
    "qwen3_5": replace(QWEN_3, text="qwen3_5_text"),
    "qwen3_5_moe": replace(QWEN_3, text="qwen3_5_moe_text"),
    "kimi_vl": Wrapper("deepseek_v3", vision.moonvit, tower_defaults=KIMI),
    "llama4": Wrapper(
        "llama4_text",
        vision.llama4_vision,
        tower_defaults={
            "hidden_size": 768,
            "intermediate_size": 5632,
            "num_hidden_layers": 34,
            "image_size": 448,
            "patch_size": 14,
            "projector_input_dim": 4096,
            "projector_output_dim": 4096,
            "vision_output_dim": 7680,
        },
    ),
}
