"""Writes mix.txt: the type that llama-quantize gives each tensor of some small models, by mix.
Usage: make_mix.py llama-quantize mix.txt

One line "model MODEL arch L H K experts" per model, one "tensor NAME cols rows experts" per tensor, and per mix one
"mix NAME FILE_TYPE TYPE TYPE …" with the types in the order of the tensors. Every tensor is F32 in the source.
"""
import subprocess
import sys
import tempfile

import gguf
import numpy as np

MIXES = """F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S IQ4_NL IQ4_XS Q4_1 Q4_0 Q3_K_L Q3_K_M Q3_K_S
Q2_K""".split()
V = 64


def write(path, arch, L, H, K, C, F, tied, fused, experts):
    w = gguf.GGUFWriter(path, arch)
    w.add_block_count(L)
    w.add_context_length(128)
    w.add_embedding_length(C)
    w.add_feed_forward_length(F)
    w.add_head_count(H)
    w.add_head_count_kv(K)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_layer_norm_eps(1e-5)
    w.add_rope_dimension_count(C // H)
    w.add_vocab_size(V)
    if experts:
        w.add_expert_count(experts)
        w.add_expert_used_count(2)
    kv = C // H * K
    shapes = [("token_embd.weight", C, V, 1), ("output_norm.weight", C, 1, 1)]
    if not tied:
        shapes.append(("output.weight", C, V, 1))
    for i in reversed(range(L)):  # the order of the file is not the order of the layers
        b = f"blk.{i}."
        shapes += [(b + "attn_norm.weight", C, 1, 1), (b + "ffn_norm.weight", C, 1, 1)]
        if fused:
            shapes += [(b + "attn_qkv.weight", C, C + 2 * kv, 1), (b + "attn_qkv.bias", C + 2 * kv, 1, 1)]
        else:
            shapes += [(b + "attn_q.weight", C, C, 1), (b + "attn_k.weight", C, kv, 1), (b + "attn_v.weight", C, kv, 1)]
        shapes.append((b + "attn_output.weight", C, C, 1))
        if experts:
            shapes += [(b + "ffn_gate_inp.weight", C, experts, 1), (b + "ffn_gate_exps.weight", C, F, experts)]
            shapes += [(b + "ffn_up_exps.weight", C, F, experts), (b + "ffn_down_exps.weight", F, C, experts)]
        else:
            shapes += [(b + "ffn_gate.weight", C, F, 1), (b + "ffn_up.weight", C, F, 1), (b + "ffn_down.weight", F, C, 1)]
    rng = np.random.default_rng(1)
    for name, cols, rows, n in shapes:
        dims = (cols,) if rows == 1 and n == 1 else (rows, cols) if n == 1 else (n, rows, cols)
        w.add_tensor(name, rng.standard_normal(dims, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return shapes


MODELS = {
    "untied": ("llama", 17, 4, 2, 256, 256, False, False, 0),
    "tied": ("llama", 9, 8, 2, 256, 256, True, False, 0),
    "narrow": ("llama", 8, 6, 6, 192, 256, True, False, 0),
    "odd": ("llama", 2, 4, 4, 256, 272, False, False, 0),
    "fused": ("phi2", 6, 4, 4, 256, 256, False, True, 0),
    "falcon": ("falcon", 18, 4, 1, 256, 256, False, True, 0),
    "mixtral": ("llama", 4, 8, 2, 256, 256, False, False, 8),
    "seventy": ("llama", 80, 2, 1, 256, 256, False, False, 0),
}
with tempfile.TemporaryDirectory() as d, open(sys.argv[2], "w") as out:
    for model, (arch, L, H, K, *rest) in MODELS.items():
        shapes = write(f"{d}/in.gguf", arch, L, H, K, *rest)
        print("model", model, arch, L, H, K, rest[-1], file=out)
        for name, cols, rows, n in shapes:
            print("tensor", name, cols, rows, n, file=out)
        for mix in MIXES:
            if L == 80 and mix not in ("Q4_K_M", "Q3_K_S"):
                continue
            r = subprocess.run([sys.argv[1], f"{d}/in.gguf", f"{d}/out.gguf", mix, "2"], capture_output=True, text=True)
            if r.returncode != 0:  # a row that 32 does not divide has no fallback there
                print(model, mix, r.stderr.strip().splitlines()[-1] if r.stderr else r.stdout[-300:], file=sys.stderr)
                continue
            g = gguf.GGUFReader(f"{d}/out.gguf")
            types = {t.name: t.tensor_type.name for t in g.tensors}
            file_type = int(g.fields["general.file_type"].parts[-1][0])
            print("mix", mix, file_type, *[types[name] for name, *_ in shapes], file=out)
print("gguf", __import__("importlib.metadata").metadata.version("gguf"), "numpy", np.__version__, file=sys.stderr)
