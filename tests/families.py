"""Families of chat models, as tiny random ones: those that the engine runs, and those that it must refuse.

docs/models.md names them all; test_families.py says that it does.
"""

from typing import Any

import torch
import transformers
from conftest import BOS, EOS, HIDDEN, PAD, VOCABULARY, widened
from transformers import AutoModelForCausalLM, PreTrainedModel

WINDOW = 16  # shorter than the prompts
MAMBA = {
    "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16,
}  # fmt: skip
EXPERTS = {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
HYBRID = {"layer_types": ["conv", "full_attention", "conv", "full_attention"]}
RUN: dict[str, tuple[str, dict[str, Any]]] = {  # name in docs/models.md -> config class and what makes it small
    "Llama": ("LlamaConfig", {}),
    "Llama, tied embeddings": ("LlamaConfig", {"tie_word_embeddings": True}),
    "Qwen 2": ("Qwen2Config", {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2}),
    "Qwen 3": ("Qwen3Config", {"head_dim": 8}),
    "Qwen 3 MoE": ("Qwen3MoeConfig", {"head_dim": 8} | EXPERTS),
    "Mistral": ("MistralConfig", {"head_dim": 8, "sliding_window": WINDOW}),
    "Ministral": ("MinistralConfig", {"head_dim": 8, "sliding_window": WINDOW}),
    "Phi 3 and 4": ("Phi3Config", {}),
    "Gemma 3": ("Gemma3TextConfig", {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW}),
    "Granite": ("GraniteConfig", {"logits_scaling": 4.0, "residual_multiplier": 0.5, "embedding_multiplier": 2.0}),
    "OLMo 2": ("Olmo2Config", {}),
    "OLMo 3": ("Olmo3Config", {"sliding_window": WINDOW}),
    "SmolLM 3": ("SmolLM3Config", {}),
    "Cohere Command R7B": ("Cohere2Config", {"sliding_window": WINDOW}),
    "EXAONE 4": ("Exaone4Config", {"sliding_window": WINDOW}),
    "GLM 4": ("Glm4Config", {"head_dim": 8}),
    "Seed-OSS": ("SeedOssConfig", {"head_dim": 8}),
    "Hunyuan": ("HunYuanDenseV1Config", {"head_dim": 8}),
    "LFM2 and LFM2.5": ("Lfm2Config", {"block_auto_adjust_ff_dim": False} | HYBRID),
    "LFM2 MoE": ("Lfm2MoeConfig", {"num_dense_layers": 1} | EXPERTS | HYBRID),
}
REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {  # besides, why
    "Bamba": ("BambaConfig", {"attn_layer_indices": [1, 3], "mamba_expand": 2} | MAMBA, "has Mamba blocks"),
    "Falcon H1": ("FalconH1Config", {"mamba_d_ssm": 64, "head_dim": 8} | MAMBA, "has Mamba blocks"),
    "DeepSeek 3": (
        "DeepseekV3Config",
        {
            "q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
            "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "num_key_value_heads": 4,
        } | EXPERTS,
        "has latent attention",
    ),
    "Gemma 3n": (
        "Gemma3nTextConfig",
        {
            "head_dim": 8, "num_kv_shared_layers": 2, "sliding_window": WINDOW, "intermediate_size": [64] * 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2, "vocab_size_per_layer_input": VOCABULARY,
            "activation_sparsity_pattern": [0.0] * 4,
        },
        "has blocks that share keys and values",
    ),
    "StableLM": ("StableLmConfig", {}, r"\(stablelm\) gives other results in the engine"),
    "Gemma 2": (
        "Gemma2Config",
        {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": WINDOW},
        "caps its attention scores",
    ),
    "GPT-OSS": (
        "GptOssConfig",
        {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
        "has attention sinks",
    ),
    "Gemma 3, text and images": (
        "Gemma3Config",
        {
            "text_config": {
                "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 4,
                "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
            },
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 16, "patch_size": 8,
            },
            "mm_tokens_per_image": 4,
        },
        "is more than a model of text",
    ),
    "GPT-NeoX": ("GPTNeoXConfig", {}, "does not have its blocks where"),
    "GPT-2": ("GPT2Config", {"n_embd": HIDDEN, "n_layer": 4, "n_head": 4}, "does not have its blocks where"),
}  # fmt: skip


def make_family(kind: str, changes: dict[str, Any]) -> PreTrainedModel:
    """Four blocks with wide seeded weights, fp32."""
    config = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192,
        "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS,
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(getattr(transformers, kind)(**config | changes))
    model.set_experts_implementation("eager")  # which also runs in float64
    return widened(model.float())
