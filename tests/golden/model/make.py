#!/usr/bin/env python3
"""Writes the golden models and logits of this directory. See README.md. Run: python3 make.py"""
import json
import pathlib

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
N_IDS = 24
PIECES = ["<unk>", "<s>", "</s>"]


def config(C, F, **kw):
    return LlamaConfig(vocab_size=64, hidden_size=C, intermediate_size=F, num_hidden_layers=2, num_attention_heads=4,
                       num_key_value_heads=2, max_position_embeddings=64, rms_norm_eps=1e-5, bos_token_id=1,
                       eos_token_id=2, attn_implementation="eager", **kw)


def model(cfg, seed, half):
    torch.manual_seed(seed)
    m = LlamaForCausalLM(cfg).eval()
    with torch.no_grad():
        for name, p in m.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (1.0 if "embed" in name else 2.0 / p.shape[1] ** 0.5))
            if half and p.dim() == 2:
                p.copy_(p.half().float())
    return m


def logits(m, ids):
    with torch.no_grad():
        return m.double()(torch.tensor([ids])).logits[0].float().numpy()


def write_logits(name, m, ids):
    (HERE / f"{name}.logits.f32").write_bytes(logits(m, ids).astype("<f4").tobytes())
    m.float()


def hf_config(cfg, **kw):
    """The keys that published directories have (transformers 4 spelling)."""
    d = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "torch_dtype": "float32",
         "hidden_size": cfg.hidden_size, "intermediate_size": cfg.intermediate_size, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "rope_scaling": None, "tie_word_embeddings": cfg.tie_word_embeddings, "vocab_size": 64,
         "attention_bias": False, "mlp_bias": False, "bos_token_id": 1, "eos_token_id": 2}
    return d | kw


def permute(w, n_head):
    """Half-split rotary rows to interleaved ones, as llama.cpp's convert_hf_to_gguf.py does."""
    return w.reshape(n_head, 2, w.shape[0] // n_head // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
         "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
         "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def gguf_name(n):
    if n.startswith("model.layers."):
        _, _, i, rest = n.split(".", 3)
        return f"blk.{i}.{NAMES[rest.removesuffix('.weight')]}.weight"
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight"}[n]


def write_gguf(path, m, qtype):
    """Matrices as qtype; returns them dequantised, in the model's own order."""
    cfg = m.config
    w = gguf.GGUFWriter(path, "llama")
    w.add_name(path.stem)
    w.add_context_length(64)
    w.add_embedding_length(cfg.hidden_size)
    w.add_block_count(2)
    w.add_feed_forward_length(cfg.intermediate_size)
    w.add_head_count(4)
    w.add_head_count_kv(2)
    w.add_rope_dimension_count(cfg.hidden_size // 4)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(64)
    pieces = PIECES + ["\u2581"] + [chr(c) for c in range(ord("a"), ord("z") + 1)]
    pieces += [f"\u2581{chr(c)}" for c in range(ord("a"), ord("z") + 1)] + ["th", "he", "in", "an", "er", ".", ",", "\u2581the"]
    assert len(pieces) == 64
    w.add_tokenizer_model("llama")
    w.add_token_list(pieces)
    w.add_token_scores([0.0] * 3 + [-float(i) for i in range(61)])
    w.add_token_types([2, 3, 3] + [1] * 61)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    state = {}
    for n, p in m.state_dict().items():
        if n == "lm_head.weight" and cfg.tie_word_embeddings:
            continue
        a = p.numpy().astype(np.float32)
        heads = 4 if "q_proj" in n else 2 if "k_proj" in n else 0
        if heads:
            a = permute(a, heads)
        if a.ndim == 1 or qtype == gguf.GGMLQuantizationType.F32:
            w.add_tensor(gguf_name(n), a)
        else:
            q = gguf.quants.quantize(a, qtype)
            w.add_tensor(gguf_name(n), q, raw_dtype=qtype)
            a = gguf.quants.dequantize(q, qtype)
        if heads:
            a = a.reshape(heads, a.shape[0] // heads // 2, 2, a.shape[1]).swapaxes(1, 2).reshape(a.shape)
        state[n] = torch.tensor(a)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return state


def load_state(m, state):
    m.load_state_dict(state, strict=False)
    m.tie_weights()
    return m


def main():
    rng = np.random.default_rng(7)
    ids = [1] + [int(x) for x in rng.integers(3, 64, N_IDS - 1)]
    (HERE / "ids.txt").write_text("\n".join(map(str, ids)) + "\n")

    # C=32, untied, F32: the directory, its interleaved twin, and F16.
    cfg = config(32, 24, tie_word_embeddings=False)
    m = model(cfg, 1, True)
    d = HERE / "llama32-hf"
    d.mkdir(exist_ok=True)
    (d / "config.json").write_text(json.dumps(hf_config(cfg), indent=2) + "\n")
    save_file({k: v.contiguous() for k, v in m.state_dict().items()}, d / "model.safetensors", metadata={"format": "pt"})
    write_gguf(HERE / "llama32-f32.gguf", m, gguf.GGMLQuantizationType.F32)
    write_gguf(HERE / "llama32-f16.gguf", m, gguf.GGMLQuantizationType.F16)
    write_logits("llama32", m, ids)

    # The same weights under rotary scaling.
    for name, scaling in {
        "linear": {"rope_type": "linear", "factor": 4.0},
        "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                   "original_max_position_embeddings": 32},
    }.items():
        c = config(32, 24, tie_word_embeddings=False, rope_parameters=scaling | {"rope_theta": 10000.0})
        s = LlamaForCausalLM(c).eval()
        s.load_state_dict(m.state_dict())
        write_logits(f"llama32-{name}", s, ids)
        (HERE / f"llama32-{name}.config.json").write_text(json.dumps(hf_config(cfg, rope_scaling=scaling), indent=2) + "\n")

    # C=64, tied, quantized; logits are those of the dequantised weights.
    cfg = config(64, 32, tie_word_embeddings=True)
    for name, q in {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_0": gguf.GGMLQuantizationType.Q4_0}.items():
        m = model(cfg, 2, False)
        state = write_gguf(HERE / f"llama64-{name}.gguf", m, q)
        write_logits(f"llama64-{name}", load_state(m, state), ids)


main()
