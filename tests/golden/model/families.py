#!/usr/bin/env python3
"""Random-weight models of every family, as a Hugging Face directory and as GGUF, with transformers' logits. See README.md.

Run: families.py OUT LLAMA_CPP LLAMA_LOGITS [f32|f16] [name...]
LLAMA_CPP is a source tree of llama.cpp (its converter writes the GGUF), LLAMA_LOGITS the program of llama_logits.c.
f16 is what the repository has: the matrices as F16 (all values are exact in F16, so nothing changes). f32 is for looking into
a difference: everything as F32, and the hidden states after each layer.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import zlib

import numpy as np
os.environ["TQDM_DISABLE"] = "1"
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

N_IDS = 40
V = 96
tf.logging.set_verbosity_error()
NORM0 = ("gemma",)  # families whose norms are stored minus one


# ---- the families: name -> (config class, model class, config, options) ----
# options: gguf=False (llama.cpp has no such class), n_ctx for llama.cpp, tol of the cross-check, v5 (config.json as transformers 5
# spells it), window_lost (llama.cpp has no window there: its GGUF belongs to logits without), extra (more keys for config.json).
def base(C, H, K, F, **kw):
    return dict(vocab_size=V, hidden_size=C, intermediate_size=F, num_hidden_layers=2, num_attention_heads=H,
                num_key_value_heads=K, max_position_embeddings=64, bos_token_id=1, eos_token_id=2) | kw


LONG = [1.0, 1.5, 2.25, 3.0]
SHORT = [1.0, 1.1, 1.2, 1.35]
F = {
    "llama3": ("Llama", base(48, 6, 2, 40, rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}), {}),
    "llama-linear": ("Llama", base(48, 3, 3, 40, rms_norm_eps=1e-6, tie_word_embeddings=False, rope_parameters={
        "rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}), {}),
    "llama-bias": ("Llama", base(40, 2, 1, 24, head_dim=16, attention_bias=True, mlp_bias=True, tie_word_embeddings=False,
                                 rms_norm_eps=1e-5), {}),
    "smollm2": ("Llama", base(48, 6, 2, 40, rms_norm_eps=1e-5, tie_word_embeddings=True,
                              rope_parameters={"rope_type": "default", "rope_theta": 100000.0}), {"v5": True}),
    "mistral": ("Mistral", base(48, 6, 2, 40, rms_norm_eps=1e-5, sliding_window=16, tie_word_embeddings=False),
                {"window_lost": True}),
    "qwen2": ("Qwen2", base(48, 6, 2, 40, tie_word_embeddings=True,
                            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
              {"extra": {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 1}}),
    "qwen2-yarn": ("Qwen2", base(48, 3, 1, 40, tie_word_embeddings=True, max_position_embeddings=64, rope_parameters={
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}), {}),
    "qwen3": ("Qwen3", base(48, 4, 2, 40, head_dim=16, tie_word_embeddings=False,
                            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}), {}),
    "phi2": ("Phi", base(40, 5, 5, 160, partial_rotary_factor=0.5, hidden_act="gelu_new", layer_norm_eps=1e-5,
                         tie_word_embeddings=False), {"tol": 5e-3}),
    "phi3": ("Phi3", base(48, 6, 2, 40, rms_norm_eps=1e-5, original_max_position_embeddings=64, tie_word_embeddings=False,
                          sliding_window=None, pad_token_id=0), {}),
    "phi3-window": ("Phi3", base(48, 6, 6, 40, rms_norm_eps=1e-5, original_max_position_embeddings=64,
                                 tie_word_embeddings=False, sliding_window=16, pad_token_id=0), {"window_lost": True}),
    "phi3-partial": ("Phi3", base(48, 3, 1, 40, rms_norm_eps=1e-5, original_max_position_embeddings=64, pad_token_id=0,
                                  tie_word_embeddings=True, sliding_window=None, partial_rotary_factor=0.75), {}),
    "phi3-long": ("Phi3", base(48, 6, 2, 40, rms_norm_eps=1e-5, original_max_position_embeddings=32, pad_token_id=0,
                               tie_word_embeddings=False, sliding_window=None, rope_parameters={
                                   "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": LONG,
                                   "short_factor": SHORT, "original_max_position_embeddings": 32}), {}),
    "phi3-short": ("Phi3", base(48, 6, 2, 40, rms_norm_eps=1e-5, original_max_position_embeddings=256, pad_token_id=0,
                                max_position_embeddings=1024, tie_word_embeddings=False, sliding_window=None, rope_parameters={
                                    "rope_type": "longrope", "rope_theta": 10000.0, "long_factor": LONG,
                                    "short_factor": SHORT, "original_max_position_embeddings": 256}), {}),
    "gemma": ("Gemma", base(48, 4, 1, 40, head_dim=16, rms_norm_eps=1e-6, hidden_activation="gelu_pytorch_tanh"),
              {"tol": 5e-3, "extra": {"hidden_act": "gelu"}}),
    "gemma2": ("Gemma2", base(48, 4, 2, 40, head_dim=16, rms_norm_eps=1e-6, query_pre_attn_scalar=16, sliding_window=16,
                              attn_logit_softcapping=5.0, final_logit_softcapping=10.0,
                              hidden_activation="gelu_pytorch_tanh"), {"tol": 5e-3, "extra": {"hidden_act": "gelu_pytorch_tanh"}}),
    "gemma2-scale": ("Gemma2", base(48, 4, 2, 40, head_dim=16, rms_norm_eps=1e-6, query_pre_attn_scalar=12, sliding_window=16,
                                    attn_logit_softcapping=5.0, final_logit_softcapping=10.0), {"gguf": False}),
    "gemma3": ("Gemma3", base(40, 4, 1, 24, head_dim=8, rms_norm_eps=1e-6, query_pre_attn_scalar=8, sliding_window=16,
                              num_hidden_layers=7, layer_types=(["sliding_attention"] * 5 + ["full_attention"] +
                                                                ["sliding_attention"]),
                              rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                               "full_attention": {"rope_type": "linear", "factor": 8.0,
                                                                  "rope_theta": 1000000.0}}),
               {"tol": 5e-3, "cls": ("Gemma3TextConfig", "Gemma3ForCausalLM")}),
    "gemma3-v5": ("Gemma3", base(40, 4, 1, 24, head_dim=8, rms_norm_eps=1e-6, query_pre_attn_scalar=16, sliding_window=16,
                                 layer_types=["sliding_attention", "full_attention"], final_logit_softcapping=10.0,
                                 rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                                  "full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}),
                  {"cls": ("Gemma3TextConfig", "Gemma3ForCausalLM"), "v5": True, "gguf": False}),
    "stablelm": ("StableLm", base(64, 4, 2, 40, partial_rotary_factor=0.25, layer_norm_eps=1e-5, use_qkv_bias=False,
                                  tie_word_embeddings=False), {}),
    "stablelm-bias": ("StableLm", base(64, 4, 4, 40, partial_rotary_factor=0.25, layer_norm_eps=1e-5, use_qkv_bias=True,
                                       tie_word_embeddings=False), {}),
    "stablelm-12b": ("StableLm", base(64, 4, 2, 40, partial_rotary_factor=0.25, layer_norm_eps=1e-5, qk_layernorm=True,
                                      use_parallel_residual=True, tie_word_embeddings=False), {}),
    "gptneox": ("GPTNeoX", dict(vocab_size=V, hidden_size=48, intermediate_size=56, num_hidden_layers=2,
                                num_attention_heads=3, max_position_embeddings=64, rotary_pct=0.25, hidden_act="gelu",
                                use_parallel_residual=True, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False),
                {"tol": 5e-3}),
    "gptneox-serial": ("GPTNeoX", dict(vocab_size=V, hidden_size=48, intermediate_size=56, num_hidden_layers=2,
                                       num_attention_heads=3, max_position_embeddings=64, rotary_pct=1.0, hidden_act="gelu",
                                       use_parallel_residual=False, bos_token_id=1, eos_token_id=2,
                                       tie_word_embeddings=False), {"tol": 5e-3}),
    "gpt2": ("GPT2", dict(vocab_size=V, n_embd=40, n_head=5, n_layer=2, n_positions=48, bos_token_id=1, eos_token_id=2),
             {"tol": 5e-3, "cls": ("GPT2Config", "GPT2LMHeadModel"), "strip": "transformer.",
              "extra": {"n_ctx": 48}}),
    "gpt2-prefix": ("GPT2", dict(vocab_size=V, n_embd=16, n_head=2, n_layer=2, n_positions=48, bos_token_id=1, eos_token_id=2),
                    {"tol": 5e-3, "cls": ("GPT2Config", "GPT2LMHeadModel"), "extra": {"n_ctx": 48}}),
    "gptneo": ("GPTNeo", dict(vocab_size=V, hidden_size=40, num_layers=2, num_heads=5, max_position_embeddings=64,
                              attention_types=[[["global", "local"], 1]], window_size=16, bos_token_id=1, eos_token_id=2),
               {"gguf": False}),
    "opt": ("OPT", dict(vocab_size=V, hidden_size=48, ffn_dim=56, num_hidden_layers=2, num_attention_heads=6,
                        max_position_embeddings=64, word_embed_proj_dim=48, bos_token_id=1, eos_token_id=2, pad_token_id=0),
            {"gguf": False}),
    "opt-350m": ("OPT", dict(vocab_size=V, hidden_size=48, ffn_dim=56, num_hidden_layers=2, num_attention_heads=6,
                             max_position_embeddings=64, word_embed_proj_dim=24, do_layer_norm_before=False, bos_token_id=1,
                             eos_token_id=2, pad_token_id=0), {"gguf": False}),
    "bert": ("Bert", dict(vocab_size=V, hidden_size=48, intermediate_size=56, num_hidden_layers=2, num_attention_heads=6,
                          max_position_embeddings=64, layer_norm_eps=1e-12), {"tol": 5e-3, "cls": ("BertConfig", "BertForMaskedLM")}),
    "minilm": ("Bert", dict(vocab_size=V, hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=3,
                            max_position_embeddings=64, layer_norm_eps=1e-12), {"tol": 5e-3, "cls": ("BertConfig", "BertModel")}),
}


def token_ids(name):
    rng = np.random.default_rng(7)
    if name in ("bert", "minilm"):
        return [2] + [int(x) for x in rng.integers(5, V, N_IDS - 2)] + [3]
    return [1] + [int(x) for x in rng.integers(3, V, N_IDS - 1)]


def make_model(name):
    family, kw, opt = F[name]
    ccls, mcls = opt.get("cls", (family + "Config", family + "ForCausalLM"))
    cfg = getattr(tf, ccls)(**kw, attn_implementation="eager")
    torch.manual_seed(zlib.crc32(name.split("-short")[0].replace("phi3-long", "phi3").encode()))
    m = getattr(tf, mcls)(cfg).eval()
    with torch.no_grad():
        for n, p in m.named_parameters():
            if p.dim() == 1 and n.endswith("weight"):
                p.copy_((0.0 if name.startswith(NORM0) else 1.0) + 0.2 * torch.randn_like(p))
            elif p.dim() == 1:
                p.copy_(0.3 * torch.randn_like(p))
            elif "embed" in n or "wte" in n or "wpe" in n:
                small = "pos" in n or "wpe" in n or "type" in n or name.startswith("gemma")
                p.copy_((0.3 if small else 0.7) * torch.randn_like(p))
            else:
                conv1d = family == "GPT2"
                p.copy_(torch.randn_like(p) * 1.5 / p.shape[0 if conv1d else 1] ** 0.5)
            p.copy_(p.half().float())
    m.tie_weights()
    return m


def config_json(m, name):
    """As published directories spell it (transformers 4), unless the family asks for transformers 5."""
    opt = F[name][2]
    d = json.loads(m.config.to_json_string(use_diff=False))
    for k in ("_name_or_path", "transformers_version", "chunk_size_feed_forward", "output_attentions", "output_hidden_states",
              "return_dict", "problem_type", "is_encoder_decoder", "id2label", "label2id", "attn_implementation",
              "_attn_implementation"):
        d.pop(k, None)
    d["architectures"] = [type(m).__name__]
    if not opt.get("v5"):
        d["torch_dtype"] = d.pop("dtype", None) or "float32"
        d.pop("layer_types", None)
        d.pop("_sliding_window_pattern", None)
        rp = d.pop("rope_parameters", None)
        if rp and "full_attention" in rp:
            d["rope_theta"] = rp["full_attention"]["rope_theta"]
            d["rope_local_base_freq"] = rp["sliding_attention"]["rope_theta"]
            d["rope_scaling"] = {"rope_type": "linear", "factor": rp["full_attention"]["factor"]}
            d["sliding_window_pattern"] = 6
        elif rp:
            theta, part = rp.pop("rope_theta"), rp.pop("partial_rotary_factor", None)
            d["rotary_emb_base" if name.startswith("gptneox") else "rope_theta"] = theta
            if part is not None:
                d["rotary_pct" if name.startswith("gptneox") else "partial_rotary_factor"] = part
            if rp["rope_type"] == "longrope":
                rp["type"] = rp.pop("rope_type")
                rp.pop("factor", None)
                rp.pop("original_max_position_embeddings", None)
            d["rope_scaling"] = None if rp.get("rope_type") == "default" else rp
    else:
        d["dtype"] = d.get("dtype") or "float32"
    d.update(opt.get("extra", {}))
    return {k: v for k, v in sorted(d.items()) if v is not None or k in ("rope_scaling", "sliding_window")}


def state_for_file(m, name, dtype):
    """Tensors under their published names, with the buffers that old checkpoints carry."""
    opt = F[name][2]
    out, seen = {}, {}
    for k, p in m.state_dict().items():
        if p.data_ptr() in seen and p.numel() > 0:  # tied
            continue
        seen[p.data_ptr()] = k
        k = k.removeprefix(opt.get("strip", ""))
        out[k] = p.detach().to(torch.float16 if dtype == "f16" and p.dim() > 1 else p.dtype).contiguous().clone()
    n = getattr(m.config, "max_position_embeddings", 64)
    if name == "gpt2":
        for i in range(2):
            out[f"h.{i}.attn.bias"] = torch.tril(torch.ones(1, 1, 48, 48, dtype=torch.uint8)).to(torch.float32)
    if name.startswith("gptneox"):
        out["embed_out.weight"] = out.pop("lm_head.weight")
    if name == "gptneox":
        for i in range(2):
            a = f"gpt_neox.layers.{i}.attention."
            out[a + "bias"] = torch.tril(torch.ones(1, 1, 64, 64, dtype=torch.bool))
            out[a + "masked_bias"] = torch.tensor(-1e9)
            out[a + "rotary_emb.inv_freq"] = 1.0 / 10000 ** (torch.arange(0, 4, 2) / 4.0)
    if name == "gptneo":
        for i in range(2):
            out[f"transformer.h.{i}.attn.attention.masked_bias"] = torch.tensor(-1e9)
            out.pop(f"transformer.h.{i}.attn.attention.bias", None)
    if name == "minilm":
        out["embeddings.position_ids"] = torch.arange(n).unsqueeze(0)
    return out


def write_hf(m, name, d, dtype):
    d.mkdir(parents=True, exist_ok=True)
    (d / "config.json").write_text(json.dumps(config_json(m, name), indent=2) + "\n")
    save_file(state_for_file(m, name, dtype), d / "model.safetensors", metadata={"format": "pt"})
    if name == "minilm":
        (d / "modules.json").write_text(json.dumps([
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}], indent=1) + "\n")
        (d / "1_Pooling").mkdir(exist_ok=True)
        (d / "1_Pooling" / "config.json").write_text(json.dumps(
            {"word_embedding_dimension": 48, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, indent=1) + "\n")


def run(d, cls, ids, **override):
    """All logits (an encoder: last hidden states), and the hidden states, of the directory as transformers reads it; float64."""
    m = cls.from_pretrained(d, attn_implementation="eager", dtype=torch.float32, **override).eval().double()
    with torch.no_grad():
        r = m(torch.tensor([ids]), output_hidden_states=True)
    h = [x[0].float().numpy() for x in r.hidden_states]
    y = h[-1] if cls.__name__.startswith("Bert") else r.logits[0].float().numpy()
    return y, h


# ---- GGUF by llama.cpp's converter, with a toy vocabulary instead of the model's ----
def pieces_spm():
    p = ["<unk>", "<s>", "</s>", "\u2581"] + [chr(c) for c in range(97, 123)] + ["\u2581" + chr(c) for c in range(97, 123)]
    p += [chr(c) for c in range(65, 91)] + list("0123456789") + [".", ",", "th", "\u2581the"]
    assert len(p) == V == len(set(p))
    return p


def pieces_bert():
    p = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [chr(c) for c in range(97, 123)] + ["##" + chr(c) for c in range(97, 123)]
    p += list("0123456789") + ["##" + c for c in "0123456789"] + list(".,!?;:-'\"()") + ["the", "##ing", "##er", "and", "##th", "of", "to"]
    p += [f"[unused{i}]" for i in range(V - len(p))]
    assert len(p) == V == len(set(p))
    return p


def convert(llama_cpp, d, out, f16):
    sys.path[:0] = [str(llama_cpp / "gguf-py"), str(llama_cpp)]
    import conversion
    from conversion.base import ModelBase, TextModel, gguf
    import logging
    logging.disable(logging.INFO)

    def set_vocab(self):
        w = self.gguf_writer
        p = pieces_spm()
        w.add_tokenizer_model("llama")
        w.add_token_list(p)
        w.add_token_scores([0.0] * 3 + [-float(i) for i in range(V - 3)])
        w.add_token_types([2, 3, 3] + [1] * (V - 3))
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
        w.add_unk_token_id(0)

    def vocab_base(self):
        return pieces_bert(), [3] * 5 + [1] * (V - 5), "default"

    arch = json.loads((d / "config.json").read_text())["architectures"][0]
    cls = conversion.get_model_class(arch) if hasattr(conversion, "get_model_class") else ModelBase.from_model_architecture(arch)
    sub = {"get_vocab_base": vocab_base} if arch.startswith("Bert") else {"set_vocab": set_vocab}
    old = {}
    for k, v in sub.items():
        old[k] = getattr(cls, k)
        setattr(cls, k, v)
    if arch == "StableLmForCausalLM":  # its modify_tensors is a generator that returns the stacked norms instead of yielding them
        plain, stack = cls.modify_tensors, cls._stack_qk_norm

        def modify(self, t, n, bid):
            held = []
            self._stack_qk_norm = lambda *a: held.extend(stack(self, *a))
            yield from plain(self, t, n, bid)
            yield from held

        sub["modify_tensors"] = modify
        old["modify_tensors"] = plain
        cls.modify_tensors = modify
    if arch == "Gemma3ForCausalLM":  # drops rows that its tokenizer does not have: an empty file that says "SentencePiece"
        (d / "tokenizer.model").write_bytes(b"")
        cls._create_vocab_sentencepiece = lambda self: (pieces_spm(),)
    try:
        hparams = ModelBase.load_hparams(d, False) | json.loads((d / "config.json").read_text())
        if "rotary_pct" not in hparams and "n_ctx" not in hparams:
            hparams = None
        with torch.inference_mode():
            c = cls(d, gguf.LlamaFileType.MOSTLY_F16 if f16 else gguf.LlamaFileType.ALL_F32, out, eager=True, hparams=hparams)
            for k in [k for k in c.model_tensors if k.endswith((".attn.bias", ".masked_bias"))]:
                del c.model_tensors[k]  # masks, which its GPT-2 class no longer skips
            c.write()
    finally:
        for k, v in old.items():
            setattr(cls, k, v)
        (d / "tokenizer.model").unlink(missing_ok=True)


def rel(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def main():
    out, llama_cpp, tool = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    dtype = sys.argv[4] if len(sys.argv) > 4 else "f32"
    small = dtype == "f16"
    for name in sys.argv[5:] or list(F):
        opt = F[name][2]
        encoder = name in ("bert", "minilm")
        m = make_model(name)
        ids = token_ids(name)
        d = out / name
        d.mkdir(parents=True, exist_ok=True)
        ids_file = out / ("ids-encoder.txt" if encoder else "ids.txt") if small else d / "ids.txt"
        ids_file.write_text("\n".join(map(str, ids)) + "\n")
        hf = d / "hf"
        write_hf(m, name, hf, dtype)
        with torch.no_grad():
            r = m(torch.tensor([ids]), output_hidden_states=True)
        y, h = run(hf, type(m), ids)
        first = (r.hidden_states[-1] if encoder else r.logits)[0].numpy()
        note = f"reload {rel(first, y):.1e}"
        assert rel(first, y) < 2e-5, f"{name}: the directory does not say what the model is ({rel(first, y)})"
        y.astype("<f4").tofile(d / "logits.f32")
        if not small:
            for i, x in enumerate(h):
                x.astype("<f4").tofile(d / f"hidden_{i}.f32")
        if encoder:
            y.mean(0).astype("<f4").tofile(d / "mean.f32")
        want = y
        if opt.get("window_lost"):
            want, _ = run(hf, type(m), ids, sliding_window=None)
            if not small or name == "mistral":  # the GGUF of phi3-window has its window, llama.cpp ignores it
                want.astype("<f4").tofile(d / "logits-nowindow.f32")
            note += f", window matters {rel(want, y):.1e}"
        if opt.get("gguf", True):
            g = d / ("model.gguf" if small else "model-f32.gguf")
            convert(llama_cpp, hf, g, small)
            theirs_file = d / "llama_cpp.f32"
            subprocess.run([tool, g, ids_file, theirs_file, "64", "64"], check=True, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            theirs = np.fromfile(theirs_file, "<f4").reshape(want.shape)
            e = rel(theirs, want)
            note += f", llama.cpp differs by {e:.1e}"
            if e > (5e-3 if small else opt.get("tol", 1e-4)):  # it rounds activations to F16 before matrices in F16
                note += " !!!"
            if small:
                theirs_file.unlink()
        n = sum(p.numel() for p in m.parameters())
        print(f"{name}: {n} parameters, max|logit| {np.abs(y).max():.2f}, {note}", flush=True)
    print(f"torch {torch.__version__} transformers {tf.__version__} numpy {np.__version__}")


main()
