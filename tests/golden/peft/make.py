#!/usr/bin/env python3
"""Adapters of every kind by peft with random values over the models of ../model/families, with their logits. See README.md.

    make.py [OUT]              writes <family>-<kind>/ (adapter_config.json, adapter_model.safetensors, logits.f32)
    make.py --check DIR        loads every adapter that Edgewise saved below DIR (see test_peft.c) and compares the logits
    make.py --llama DIR PROG   the same of the GGUF adapters by llama.cpp; PROG is that of ../model/llama_logits.c
"""
import json
import os
import pathlib
import sys
import warnings

warnings.filterwarnings("ignore")
os.environ["TQDM_DISABLE"] = "1"
import numpy as np
import torch
import transformers as tf
from peft import IA3Config, LoraConfig, PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model

tf.logging.set_verbosity_error()
torch.set_num_threads(1)
HERE = pathlib.Path(__file__).resolve().parent
FAMILIES = HERE.parent / "model" / "families"
N, P = 20, 3
LLAMA = dict(q="q_proj", k="k_proj", v="v_proj", o="o_proj", gate="gate_proj", up="up_proj", down="down_proj")
# family -> what PEFT calls its modules, those of IA3, of them the feed-forward ones
MODULES = {
    "llama3": (list(LLAMA.values()), ["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "mistral": (["q_proj", "v_proj"], ["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "qwen2": (list(LLAMA.values()), ["q_proj", "v_proj", "down_proj"], ["down_proj"]),
    "qwen3": (list(LLAMA.values()), ["q_proj", "v_proj", "down_proj"], ["down_proj"]),
    "phi2": (["q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"], ["q_proj", "v_proj", "fc2"], ["fc2"]),
    "phi3": (["qkv_proj", "o_proj", "gate_up_proj", "down_proj"], ["qkv_proj", "gate_up_proj", "down_proj"], ["down_proj"]),
    "gemma": (list(LLAMA.values()), ["q_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gemma2": (list(LLAMA.values()), ["q_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gemma3": (["q_proj", "o_proj", "up_proj"], ["q_proj", "v_proj", "down_proj"], ["down_proj"]),
    "stablelm": (["q_proj", "k_proj", "v_proj", "down_proj"], ["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "gptneox": (["query_key_value", "attention.dense", "dense_h_to_4h", "dense_4h_to_h"],
                ["query_key_value", "dense_4h_to_h"], ["dense_4h_to_h"]),
    "gpt2": (["c_attn", "c_proj", "c_fc"], ["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "gptneo": (["q_proj", "k_proj", "v_proj", "out_proj", "c_fc", "c_proj"], ["q_proj", "v_proj", "c_proj"], ["c_proj"]),
    "opt": (["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"], ["q_proj", "k_proj", "fc2"], ["fc2"]),
}


def ids():
    text = (FAMILIES / "ids.txt").read_text().split()
    return torch.tensor([[int(t) for t in text[:N]]])


def open_base(family):
    m = tf.AutoModelForCausalLM.from_pretrained(FAMILIES / family / "hf", attn_implementation="eager",
                                                dtype=torch.float32)
    return m.double().eval()


def config(family, kind):
    lora, ia3, ff = MODULES[family]
    conv = dict(fan_in_fan_out=True) if family == "gpt2" else {}
    task = dict(task_type="CAUSAL_LM")
    if kind == "lora":
        return LoraConfig(r=2, lora_alpha=3, target_modules=lora, init_lora_weights=False, **conv, **task)
    if kind == "rslora":
        return LoraConfig(r=3, lora_alpha=2, use_rslora=True, target_modules=lora, init_lora_weights=False, **conv, **task)
    if kind == "patterns":
        return LoraConfig(r=2, lora_alpha=3, target_modules=lora, rank_pattern={lora[0]: 4, lora[-1]: 1},
                          alpha_pattern={lora[0]: 5, "layers.1." + ("mlp." + lora[-1]): 7}, init_lora_weights=False, **task)
    if kind == "layers":
        return LoraConfig(r=2, lora_alpha=3, target_modules=lora, layers_to_transform=[1], init_lora_weights=False, **task)
    if kind == "dora":
        return LoraConfig(r=2, lora_alpha=3, target_modules=lora, use_dora=True, init_lora_weights=False, **conv, **task)
    if kind == "ia3":
        return IA3Config(target_modules=ia3, feedforward_modules=ff, **conv, **task)
    if kind == "prompt":
        return PromptTuningConfig(num_virtual_tokens=P, **task)
    return PrefixTuningConfig(num_virtual_tokens=P, **task)


def randomise(model, kind, seed):
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if not p.requires_grad and "prompt_encoder" not in name:
            continue
        r = torch.randn(p.shape, generator=g, dtype=torch.float32).to(p.dtype)
        if kind == "ia3" or "magnitude" in name:
            p.data = (p.data * (1 + 0.3 * r)).float().to(p.dtype)
        elif "lora_" in name:
            p.data = 0.3 * r
            p.data = p.data.float().to(p.dtype)
        else:
            p.data = (0.5 * r).float().to(p.dtype)


def logits(model):
    x = ids()
    with torch.no_grad():
        out = model(input_ids=x, attention_mask=torch.ones_like(x), use_cache=True)
    return out.logits[0, -N:].float().numpy()


def make(out, only):
    for i, family in enumerate(MODULES):
        kinds = ["lora", "dora", "ia3", "prompt", "prefix"]
        kinds += ["rslora", "patterns", "layers"] if family in ("llama3", "qwen2") else []
        for j, kind in enumerate(kinds):
            name = f"{family}-{kind}"
            if only and name not in only and family not in only:
                continue
            base = open_base(family)
            plain = logits(base)
            try:
                model = get_peft_model(base, config(family, kind)).eval()
                randomise(model, kind, 1000 * i + j)
                got = logits(model.double())
            except Exception as e:  # what peft itself cannot do
                print(f"{name}: peft {type(e).__name__}: {str(e)[:120]}")
                continue
            d = out / name
            d.mkdir(parents=True, exist_ok=True)
            model.float().save_pretrained(d)
            (d / "README.md").unlink(missing_ok=True)
            c = d / "adapter_config.json"
            j = json.loads(c.read_text()) | {"base_model_name_or_path": family}
            c.write_text(json.dumps(j, indent=2, sort_keys=True) + "\n")
            got.astype("<f4").tofile(d / "logits.f32")
            print(f"{name}: change {abs(got - plain).max():.3g} of {abs(plain).max():.3g}")


def check(root):
    worst = {}
    for d in sorted(p.parent for p in root.rglob("adapter_config.json")):
        family, kind = d.name.rsplit("-", 1)
        model = PeftModel.from_pretrained(open_base(family), d).eval().double()
        want = np.fromfile(d / "logits.f32", "<f4").reshape(N, -1)
        got = logits(model)
        rel = abs(got - want).max() / abs(want).max()
        worst[kind] = max(worst.get(kind, 0), rel)
        print(f"{d.name}: {rel:.2e}")
    print("largest relative difference:", {k: f"{v:.2e}" for k, v in worst.items()})
    return 0 if worst and max(worst.values()) < 2e-4 else 1


def llama(root, prog):
    import subprocess
    worst = 0
    few = root / "ids.txt"
    few.write_text(" ".join((FAMILIES / "ids.txt").read_text().split()[:N]))
    for base in sorted(root.glob("*.base.gguf")):
        name = base.name.removesuffix(".base.gguf")
        if name.startswith("mistral"):  # llama.cpp drops its window
            continue
        out = root / "llama.f32"
        r = subprocess.run([prog, base, few, out, "64", "64", root / f"{name}.lora.gguf"], capture_output=True, text=True)
        if r.returncode != 0:
            print(f"{name}: llama.cpp: {r.stderr.strip()[-200:]}")
            worst = 1
            continue
        got, ours = np.fromfile(out, "<f4"), np.fromfile(root / f"{name}.lora.f32", "<f4")
        rel = abs(got - ours).max() / abs(ours).max()
        worst = max(worst, rel)
        print(f"{name}: {rel:.2e}")
    return 0 if worst < 2e-3 else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--llama"]:
        sys.exit(llama(pathlib.Path(sys.argv[2]), sys.argv[3]))
    if sys.argv[1:2] == ["--check"]:
        sys.exit(check(pathlib.Path(sys.argv[2])))
    make(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE, sys.argv[2:])
