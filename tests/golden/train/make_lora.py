"""Golden data for test_lora.c: 30 steps of LoRA by torch + peft on a random tiny Llama.

    python make_lora.py        (torch 2.13.0, transformers 5.23.0, peft 0.21.2, safetensors; 2026-11-20)

Writes base/ (Hugging Face directory, random weights made here), start/ and final/ (PEFT directories) and run.txt (examples and
the loss of each step). Nothing here comes from elsewhere.
"""
import math
import os

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
STEPS, LR, WARMUP, MIN_LR, CLIP, DECAY = 30, 2e-2, 0.1, 0.1, 0.5, 0.01

torch.manual_seed(20261120)
torch.set_num_threads(1)
cfg = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                  num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=True, initializer_range=0.15,
                  rms_norm_eps=1e-5, rope_theta=10000.0, bos_token_id=1, eos_token_id=2)
model = LlamaForCausalLM(cfg).float().eval()
for name, p in model.named_parameters():
    if "norm" in name:
        p.data += 0.1 * torch.randn_like(p)
model.save_pretrained(os.path.join(HERE, "base"), safe_serialization=True)

lora = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
                                        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                                                        "down_proj"]))
lora.save_pretrained(os.path.join(HERE, "start"))

examples = []
for i in range(6):
    n_prompt, n_answer = 3 + 2 * i, 1 + (i * 3) % 5
    ids = torch.randint(3, 64, (n_prompt + n_answer,)).tolist()
    examples.append((n_prompt, n_answer, ids))

params = [p for p in lora.parameters() if p.requires_grad]
opt = torch.optim.AdamW(params, lr=LR, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
answers = sum(e[1] for e in examples)
losses = []
for step in range(STEPS):
    warm = WARMUP * STEPS
    s = step + 1
    f = s / warm if s < warm else MIN_LR + (1 - MIN_LR) * 0.5 * (1 + math.cos(math.pi * (s - warm) / (STEPS - warm)))
    for g in opt.param_groups:
        g["lr"] = LR * f
    opt.zero_grad()
    total = 0.0
    for n_prompt, n_answer, ids in examples:
        x = torch.tensor([ids])
        logits = lora(input_ids=x).logits[0, :-1].float()
        target = x[0, 1:]
        nll = torch.nn.functional.cross_entropy(logits, target, reduction="none")[n_prompt - 1:].sum() / answers
        nll.backward()
        total += nll.item()
    torch.nn.utils.clip_grad_norm_(params, CLIP)
    opt.step()
    losses.append(total)
lora.save_pretrained(os.path.join(HERE, "final"))
with open(os.path.join(HERE, "run.txt"), "w") as f:
    f.write(f"{STEPS} {LR} {WARMUP} {MIN_LR} {CLIP} {DECAY}\n{len(examples)}\n")
    for n_prompt, n_answer, ids in examples:
        f.write(f"{n_prompt} {n_answer} " + " ".join(map(str, ids)) + "\n")
    for x in losses:
        f.write(f"{x:.9g}\n")
print(losses[0], losses[-1])
