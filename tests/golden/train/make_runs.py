"""Golden data for test_runs.c: 50 steps of tuning by torch + peft on a random tiny Llama and a random tiny Qwen2, in f32.

    python make_runs.py        (torch 2.13.0, transformers 5.23.0, peft 0.21.2, safetensors; 2026-11-21)

Writes for each model its Hugging Face directory (random weights made here), for each method the adapter before the first step as
peft writes it, for LoRA on the Llama also the one after the last, and runs.txt: examples, options and the loss of every step.
The order of the examples, the schedule and the mean over a step's answer tokens are Edgewise's, made again here.
Nothing here comes from elsewhere.
"""
import math
import os
import shutil
import sys

import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, BATCH, SEED, WARMUP, MIN_LR, CLIP, DECAY = 50, 4, 7, 0.1, 0.1, 0.5, 0.01
MASK = (1 << 64) - 1


class Rng:
    """xoshiro256** seeded by splitmix64, as base/rng.c."""

    @staticmethod
    def _split(x):
        x = (x + 0x9E3779B97F4A7C15) & MASK
        z = x
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return x, z ^ (z >> 31)

    def __init__(self, seed, stream):
        _, z = self._split(seed)
        y = z ^ ((stream * 0xD1342543DE82EF95) & MASK)
        self.s = []
        for _ in range(4):
            y, z = self._split(y)
            self.s.append(z)

    def u64(self):
        s = self.s
        rotl = lambda x, k: ((x << k) | (x >> (64 - k))) & MASK
        result = (rotl((s[1] * 5) & MASK, 7) * 9) & MASK
        t = (s[1] << 17) & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotl(s[3], 45)
        return result

    def below(self, n):
        limit = MASK - MASK % n
        while True:
            v = self.u64()
            if v < limit:
                return v % n


def epoch_order(n, epoch):
    order, rng = list(range(n)), Rng(SEED, 100 + epoch)
    for i in range(n, 1, -1):
        j = rng.below(i)
        order[i - 1], order[j] = order[j], order[i - 1]
    return order


def lr_factor(step):
    warm, s = WARMUP * STEPS, step + 1
    if s < warm:
        return s / warm
    return MIN_LR + (1 - MIN_LR) * 0.5 * (1 + math.cos(math.pi * (s - warm) / (STEPS - warm)))


SHAPE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.15,
             bos_token_id=1, eos_token_id=2)


def base_model(kind):
    torch.manual_seed(20261121)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(rms_norm_eps=1e-5, rope_theta=10000.0, **SHAPE))
    else:
        model = Qwen2ForCausalLM(Qwen2Config(rms_norm_eps=1e-6, rope_theta=1000000.0, **SHAPE))
    model = model.float().eval()
    for name, p in model.named_parameters():
        if "norm" in name or name.endswith("bias"):
            p.data += 0.1 * torch.randn_like(p)
    return model


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
METHODS = {  # learning rate, virtual tokens, configuration
    "lora": (2e-2, 0, lambda: LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                                         target_modules=ALL)),
    "dora": (2e-2, 0, lambda: LoraConfig(r=2, lora_alpha=4, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                                         target_modules=["q_proj", "v_proj", "down_proj"], use_dora=True)),
    "prompt": (5e-2, 4, lambda: PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "prefix": (5e-2, 4, lambda: PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
    "ia3": (3e-2, 0, lambda: IA3Config(task_type="CAUSAL_LM", target_modules=["k_proj", "v_proj", "down_proj"],
                                       feedforward_modules=["down_proj"])),
}


def make_examples():
    torch.manual_seed(5)
    rows = []
    for i in range(10):
        n_prompt, n_answer = 3 + (5 * i) % 11, 1 + (i * 3) % 5
        rows.append((n_prompt, n_answer, torch.randint(3, 64, (n_prompt + n_answer,)).tolist()))
    return rows


def run(kind, method, examples):
    lr, n_virtual, config = METHODS[method]
    torch.manual_seed(11)
    tuned = get_peft_model(base_model(kind), config())
    tuned.eval()
    if method == "prefix":  # peft starts N(0, 1): drowned in noise at this size
        for p in tuned.parameters():
            if p.requires_grad:
                p.data *= 0.3
    tuned.save_pretrained(os.path.join(HERE, f"{kind}.{method}"))
    params = [p for p in tuned.parameters() if p.requires_grad]
    opt = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
    per_epoch = (len(examples) + BATCH - 1) // BATCH
    losses = []
    for step in range(STEPS):
        order = epoch_order(len(examples), step // per_epoch)
        first = step % per_epoch * BATCH
        batch = [examples[i] for i in order[first:first + BATCH]]
        answers = sum(e[1] for e in batch)
        for g in opt.param_groups:
            g["lr"] = lr * lr_factor(step)
        opt.zero_grad()
        total = 0.0
        for n_prompt, _, ids in batch:
            x = torch.tensor([ids])
            logits = tuned(input_ids=x, attention_mask=torch.ones_like(x)).logits[0].float()
            logits = logits[logits.shape[0] - len(ids):-1]  # prompt tuning gives the virtual positions, too
            nll = torch.nn.functional.cross_entropy(logits, x[0, 1:], reduction="none")[n_prompt - 1:].sum() / answers
            nll.backward()
            total += nll.item()
        torch.nn.utils.clip_grad_norm_(params, CLIP)
        opt.step()
        losses.append(total)
    if kind == "llama" and method == "lora":
        tuned.save_pretrained(os.path.join(HERE, "llama.lora-final"))
    print(kind, method, sum(p.numel() for p in params), losses[0], losses[-1], file=sys.stderr)
    return lr, losses


torch.set_num_threads(1)
examples = make_examples()
with open(os.path.join(HERE, "runs.txt"), "w") as f:
    f.write(f"{STEPS} {BATCH} {SEED} {WARMUP} {MIN_LR} {CLIP} {DECAY}\n{len(examples)}\n")
    for n_prompt, n_answer, ids in examples:
        f.write(f"{n_prompt} {n_answer} " + " ".join(map(str, ids)) + "\n")
    for kind in ("llama", "qwen2"):
        base_model(kind).save_pretrained(os.path.join(HERE, kind), safe_serialization=True)
        for method in METHODS:
            lr, losses = run(kind, method, examples)
            f.write(f"{kind} {method} {lr}\n" + "".join(f"{x:.7g}\n" for x in losses))
for root, _, files in os.walk(HERE):  # peft and transformers write more than is read
    for name in files:
        if name in ("README.md", "generation_config.json") and root != HERE:
            os.remove(os.path.join(root, name))
shutil.rmtree(os.path.join(HERE, "__pycache__"), ignore_errors=True)
