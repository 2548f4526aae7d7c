#!/usr/bin/env python3
"""Makes cases.jsonl: what jinja2, as transformers sets it up for apply_chat_template, renders. See README.md."""
import datetime
import json
import os
import platform

import jinja2
import transformers
import transformers.utils.chat_template_utils as utils

here = os.path.dirname(os.path.abspath(__file__))


class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 4, 13, 5, 0)


utils.datetime = Clock
U, A, S = "user", "assistant", "system"


def turns(*pairs):
    return [{"role": r, "content": c} for r, c in pairs]


CONVERSATIONS = {
    "one": turns((U, "Hello")),
    "system": turns((S, "Be brief."), (U, "Hello")),
    "turns": turns((U, "Hi"), (A, "Hello! How can I help?"), (U, "What's 2+2?")),
    "long": turns((S, 'You are "helpful".'), (U, "Hi"), (A, "A\n\nB"), (U, "Next"), (A, "Done"), (U, "Last")),
    "unicode": turns((S, "日本語で 🚀"), (U, "Grüße, Ελλάς, é ñ 中文\u00a0x"), (A, "ok ✓"), (U, "e\u0301")),
    "quotes": turns((U, "It's a \"quote\" & <tag> {{ x }} {% y %} \\n \\ back"), (A, "'one' \"two\""),
                    (U, "<|im_end|>[INST]</s>")),
    "newlines": turns((S, "\n lead\n"), (U, "\n\n a \n b \n\n"), (A, "\n x\n"), (U, "\tt\t")),
    "empty": turns((U, "")),
    "empties": turns((S, ""), (U, "q"), (A, ""), (U, "r")),
    "think": turns((U, "q"), (A, "<think>\nreason\n</think>\n\nanswer"), (U, "r")),
    "ends": turns((U, "q"), (A, "a")),
    "starts": turns((A, "a"), (U, "q")),
    "stop": turns((U, "q"), ("stop", "s"), (A, "never")),
    "calls": [
        {"role": U, "content": "weather?"},
        {"role": A, "content": "", "tool_calls": [{"type": "function", "function": {
            "name": "get_weather", "arguments": {"city": "Paris \"P\"", "n": 3, "f": 1.5, "b": True, "x": None,
                                                 "l": [1, "é"]}}}]},
        {"role": "tool", "content": "{\"t\": 20}"},
        {"role": U, "content": "thanks"},
    ],
}
TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Get \"the\" weather", "parameters": {
        "type": "object", "properties": {
            "city": {"type": "string", "description": "City"},
            "days": {"type": "integer", "enum": [1, 2]},
            "where": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}}}}},
        "required": ["city"]}}}]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def render(template, messages, prompt, variables):
    try:
        compiled = utils._cached_compile_jinja_template(template)
        text = compiled.render(messages=json.loads(json.dumps(messages)), add_generation_prompt=prompt,
                               **{"tools": None, "documents": None, **TOKENS, **variables})
        return {"text": text}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"}


def main():
    cases = []
    names = sorted(os.listdir(os.path.join(here, "templates")))
    for name in names:
        with open(os.path.join(here, "templates", name), encoding="utf-8", newline="") as f:
            template = f.read()
        for conversation, messages in CONVERSATIONS.items():
            for prompt, variables in ((True, {}), (False, {}), (True, {"enable_thinking": False}),
                                      (True, {"tools": TOOLS})):
                used = all(k in template for k in variables)
                if used:
                    cases.append({"file": name, "name": conversation, "messages": messages, "prompt": prompt,
                                  "vars": variables, **render(template, messages, prompt, variables)})
    with open(os.path.join(here, "snippets.txt"), encoding="utf-8") as f:
        for i, line in enumerate(f, 1):
            template = line.rstrip("\n").replace("⏎", "\n")
            messages = CONVERSATIONS["turns"]
            cases.append({"template": template, "name": f"snippet {i}", "messages": messages, "prompt": True,
                          "vars": {}, **render(template, messages, True, {})})
    with open(os.path.join(here, "cases.jsonl"), "w", encoding="utf-8") as f:
        for c in cases:
            f.write(json.dumps(c, ensure_ascii=False) + "\n")
    with open(os.path.join(here, "VERSIONS"), "w", encoding="utf-8") as f:
        f.write(f"transformers {transformers.__version__}\njinja2 {jinja2.__version__}\n"
                f"python {platform.python_version()}\ndate {datetime.date.today()}\n")


main()
