"""Tiny random models of each family, written to disk as the real ones are published.

With the head they were pretrained with, weights as safetensors, a byte-level fast tokenizer with
the special tokens of the family.
"""

from pathlib import Path

N_LAYERS, SIZE, LONGEST = 3, 32, 96
ENCODERS = ("bert", "distilbert", "roberta", "deberta-v2", "modernbert", "t5")
DECODERS = ("gpt2", "gemma2", "llama", "qwen2")
FAMILIES = ENCODERS + DECODERS
NEWER = ("gemma3", "gemma3-text", "qwen3")  # gemma3 reads images too
WIDE = ("llama-wide", "gemma2-wide")  # bitsandbytes quantises blocks of 64

BERT_TOKENS = {
    "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}  # fmt: skip
SPECIAL = {
    "bert": BERT_TOKENS,
    "distilbert": BERT_TOKENS,
    "deberta-v2": BERT_TOKENS,
    "modernbert": BERT_TOKENS,
    "roberta": {
        "bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>",
        "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>",
    },
    "t5": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "gpt2": {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    "gemma2": {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"},
    "llama": {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    "qwen2": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
}  # fmt: skip
SPECIAL |= {
    "gemma3": SPECIAL["gemma2"],
    "gemma3-text": SPECIAL["gemma2"],
    "qwen3": SPECIAL["qwen2"],
}

SPECIAL |= {name: SPECIAL[name.removesuffix("-wide")] for name in WIDE}

COMMON = {"initializer_range": 0.2}  # scores that differ from row to row
HUGGING = {
    **COMMON, "hidden_size": SIZE, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4,
    "intermediate_size": 2 * SIZE, "max_position_embeddings": LONGEST,
}  # fmt: skip
SHAPES = {
    "bert": HUGGING,
    "roberta": HUGGING | {"max_position_embeddings": LONGEST + 4},
    "distilbert": COMMON
    | {"dim": SIZE, "n_layers": N_LAYERS, "n_heads": 4, "hidden_dim": 2 * SIZE}
    | {"max_position_embeddings": LONGEST},
    "deberta-v2": HUGGING
    | {"relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm"}
    | {"share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    | {"type_vocab_size": 0, "max_relative_positions": -1},
    "modernbert": HUGGING | {"local_attention": 8, "global_attn_every_n_layers": 3},
    "t5": {"d_model": SIZE, "num_layers": N_LAYERS, "num_heads": 4, "d_kv": 8, "d_ff": 2 * SIZE},
    "gpt2": COMMON
    | {"n_embd": SIZE, "n_layer": N_LAYERS, "n_head": 4, "n_positions": LONGEST},
    "gemma2": HUGGING
    | {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8}
    | {"attn_logit_softcapping": 2.0},
    "llama": HUGGING | {"num_key_value_heads": 2},
    "qwen2": HUGGING | {"num_key_value_heads": 2},
    "qwen3": HUGGING | {"num_key_value_heads": 2, "head_dim": 16},
    "gemma3-text": HUGGING
    | {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 8},
}  # fmt: skip
SHAPES |= {
    name: SHAPES[name.removesuffix("-wide")] | {"hidden_size": 64, "intermediate_size": 128}
    for name in WIDE
}
SHAPES["gemma3"] = {
    "text_config": SHAPES["gemma3-text"] | {"model_type": "gemma3_text"},
    "vision_config": {
        "hidden_size": SIZE, "intermediate_size": SIZE, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 16,
        "model_type": "siglip_vision_model",
    },
    "mm_tokens_per_image": 4,
}  # fmt: skip


def write_tiny(folder: Path, family: str, seed: int = 0) -> Path:
    """Write the model and its tokenizer, and return `folder`."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForImageTextToText,
        AutoModelForMaskedLM,
        AutoModelForSeq2SeqLM,
    )

    tokenizer = tiny_tokenizer(family)
    known = ("pad", "bos", "eos", "cls", "sep", "unk")
    numbers = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in known}
    own = {key: number for key, number in numbers.items() if number is not None}
    own["vocab_size"] = len(tokenizer)
    shape = dict(SHAPES[family])
    if "text_config" in shape:
        shape["text_config"] = shape["text_config"] | own
    config = AutoConfig.for_model(
        family.replace("-text", "_text").removesuffix("-wide"),
        **(shape if "text_config" in shape else shape | own),
    )
    kind = AutoModelForCausalLM if family in (*DECODERS, *NEWER, *WIDE) else AutoModelForMaskedLM
    if "text_config" in shape:
        kind = AutoModelForImageTextToText
    if config.is_encoder_decoder:
        config.decoder_start_token_id = config.pad_token_id
        kind = AutoModelForSeq2SeqLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_tokenizer(family: str):
    """A token a byte, so that any text can be encoded, behind the special tokens of the family."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = SPECIAL[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special.values(), *alphabet]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
