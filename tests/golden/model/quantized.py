#!/usr/bin/env python3
"""What llama.cpp makes of two wide models in each quantized type: SHA-256 of every tensor, and logits. See README.md.

Run: quantized.py OUT LLAMA_QUANTIZE LLAMA_LOGITS. The weights are made here and, the same, in test_quantized.c; no file of them
is kept. OUT gets sums.txt (model, mix or "pure", tensor, type, first 16 hex digits) and <model>.logits.f32 [types, ids, vocabulary]."""
import hashlib
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

C, H, K, D, FF, V, L, N = 256, 8, 4, 32, 512, 64, 2, 16
TYPES = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
MIXES = ["Q4_0", "Q8_0", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS"]
M64 = (1 << 64) - 1


def draws(name, n):
    """n sums of four 16-bit draws less their mean: near a normal distribution, and whole numbers, so exact anywhere."""
    seed = 0xCBF29CE484222325
    for b in name.encode():
        seed = ((seed ^ b) * 0x100000001B3) & M64
    z = (np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, n + 1, dtype=np.uint64))
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    m = np.uint64(0xFFFF)
    s = (z & m) + ((z >> np.uint64(16)) & m) + ((z >> np.uint64(32)) & m) + (z >> np.uint64(48))
    return s.astype(np.int64) - 131070


def tensor(name, *shape):
    s = draws(name, int(np.prod(shape))).astype(np.float32)
    if len(shape) == 1:
        x = np.float32(1) + s * np.float32(2.0**-18)
    else:
        x = s * np.float32({"token_embd.weight": 2.0**-15}.get(name, 0.75 * 2.0**-19 if shape[1] == FF else 2.0**-19))
    return x.reshape(shape).astype(np.float32)


def tensors(arch):
    yield "token_embd.weight", (V, C)
    for i in range(L):
        b = f"blk.{i}."
        yield b + "attn_norm.weight", (C,)
        if arch == "phi3":
            yield b + "attn_qkv.weight", (H * D + 2 * K * D, C)
        else:
            yield b + "attn_q.weight", (H * D, C)
            yield b + "attn_k.weight", (K * D, C)
            yield b + "attn_v.weight", (K * D, C)
        yield b + "attn_output.weight", (C, H * D)
        yield b + "ffn_norm.weight", (C,)
        if arch == "phi3":
            yield b + "ffn_up.weight", (2 * FF, C)
        else:
            yield b + "ffn_gate.weight", (FF, C)
            yield b + "ffn_up.weight", (FF, C)
        yield b + "ffn_down.weight", (C, FF)
    yield "output_norm.weight", (C,)
    yield "output.weight", (V, C)


def write(path, arch):
    w = gguf.GGUFWriter(path, arch)
    w.add_context_length(64)
    w.add_embedding_length(C)
    w.add_block_count(L)
    w.add_feed_forward_length(FF)
    w.add_head_count(H)
    w.add_head_count_kv(K)
    w.add_rope_dimension_count(D)
    w.add_rope_freq_base(10000.0)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_vocab_size(V)
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", "\u2581"] + [f"x{i}" for i in range(V - 4)])
    w.add_token_scores([0.0] * V)
    w.add_token_types([2, 3, 3] + [1] * (V - 3))
    for name, shape in tensors(arch):
        w.add_tensor(name, tensor(name, *shape))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def quantize_to(program, d, kind, *flags):
    q = d / "q.gguf"
    subprocess.run([program, *flags, d / "f32.gguf", q, kind, "1"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return q


def sums_of(q, arch, mix):
    for x in sorted(gguf.GGUFReader(q).tensors, key=lambda x: x.name):
        if len(x.shape) > 1:
            yield f"{arch} {mix} {x.name} {x.tensor_type.name} {hashlib.sha256(x.data.tobytes()).hexdigest()[:16]}"


def main():
    out, program, tool = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    out.mkdir(exist_ok=True)
    ids = [1] + [int(3 + x % (V - 3)) for x in draws("ids", N - 1) + 131070]
    (out / "ids.txt").write_text("\n".join(map(str, ids)) + "\n")
    sums = []
    for arch in ("llama", "phi3"):
        with tempfile.TemporaryDirectory() as d:
            d = pathlib.Path(d)
            write(d / "f32.gguf", arch)
            blob = b""
            for t in ["F32"] + TYPES:
                q = d / "f32.gguf"
                if t != "F32":
                    kind = t + "_M" if t in ("Q3_K", "Q4_K", "Q5_K") else t
                    q = quantize_to(program, d, kind, "--pure", "--token-embedding-type", t, "--output-tensor-type", t)
                    lines = list(sums_of(q, arch, "pure"))
                    assert all(x.split()[3] == t for x in lines)
                    sums += lines
                subprocess.run([tool, q, out / "ids.txt", d / "y.f32"], check=True, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
                y = (d / "y.f32").read_bytes()
                a = np.frombuffer(y, "<f4").reshape(N, V)
                if t == "F32":
                    exact = a
                print(arch, t, f"max|logit| {np.abs(a).max():.2f}, off F32 by {np.sqrt(((a - exact)**2).mean() / (exact**2).mean()):.4f} rms",
                      flush=True)
                blob += y if t != "F32" else b""
            (out / f"{arch}.logits.f32").write_bytes(blob)
            for mix in MIXES:
                sums += sums_of(quantize_to(program, d, mix), arch, mix)
    (out / "sums.txt").write_text("\n".join(sums) + "\n")


main()
