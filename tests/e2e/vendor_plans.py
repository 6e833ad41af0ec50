"""Plans that a vendor publishes against those that a search finds: python3 vendor_plans.py STATICFIRE [--write] [NAME ...]

Each row of tests/data/published/vendor_plans.csv is searched on its own cluster and model, once with nothing pinned and
once with the vendor's degrees. Prints whether the vendor's plan is among the best five, else how its simulated step
compares with the best and the fifth of ours, and which components make the difference. --write puts the table into
docs/planner.md; with names, only their rows are replaced."""

import csv
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
DOC = os.path.join(ROOT, "docs", "planner.md")
BEGIN, END = "<!-- vendor plans: begin -->", "<!-- vendor plans: end -->"
LLAMA_70B = {  # Llama 3 70B, Hugging Face's config
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
    "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
    "hidden_act": "silu", "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "initializer_range": 0.02,
    "tie_word_embeddings": False, "attention_bias": False, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}
KEYS = ("tp", "cp", "ep", "pp", "vpp", "micro_batch")


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout)


def schedule_of(row):
    return "interleaved" if int(row["vpp"]) > 1 else "1f1b"


def scenario(folder, row, pinned):
    model = os.path.join(ROOT, "scenarios", "models", row["model"], "config.json")
    if not os.path.exists(model):
        model = os.path.join(folder, "config.json")
        with open(model, "w", encoding="utf-8") as f:
            json.dump(LLAMA_70B, f)
    cluster = os.path.join(ROOT, "scenarios", "clusters", row["cluster"] + ".yaml")
    lines = [
        f"name: {row['name']}", f"cluster: {os.path.relpath(cluster, folder)}",
        f"model: {os.path.relpath(model, folder)}", "job:", f"  seq_len: {row['seq_len_tokens']}",
        f"  global_batch: {row['gbs_seqs']}", f"  precision: {row['precision']}", f"  gpus: {row['gpus']}",
        "  optimizer: { kind: adamw, lr: 3e-4, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, warmup_steps: 1 }",
        "  steps: 1", "  seed: 1",
    ]
    if pinned:
        pins = [f"{k}: {row['mbs_seqs'] if k == 'micro_batch' else row[k]}" for k in KEYS]
        pins += [f"schedule: {schedule_of(row)}", f"zero: {row['zero']}"]
        lines.append("plan: { " + ", ".join(pins) + " }")
    path = os.path.join(folder, "pinned.yaml" if pinned else "free.yaml")
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
    return path


def breakdown(program, plan):
    return run(program, "sim", plan, "--json")["breakdown_s"]


def is_vendors(plan, row):
    d = plan["degrees"]
    same = all(d[k] == int(row["mbs_seqs" if k == "micro_batch" else k]) for k in KEYS)
    return same and plan["schedule"] == schedule_of(row) and plan["zero"] == int(row["zero"])


def words(plan):
    d = plan["degrees"]
    text = ", ".join(f"{k} {d[k]}" for k in ("tp", "cp", "ep", "pp", "vpp") if d[k] > 1) or "dp alone"
    return f"{text}, {d['microbatches']} x {d['micro_batch']}, {plan['schedule']}, zero {plan['zero']}"


def compare(program, row):
    with tempfile.TemporaryDirectory() as folder:
        plans, steps, parts = {}, {}, {}
        for kind, pinned in (("ours", False), ("vendor", True)):
            out = os.path.join(folder, kind + ".yaml")
            found = run(program, "plan", scenario(folder, row, pinned), "--top", "5", "-o", out, "--json")
            plans[kind] = found["plans"]
            steps[kind] = found["plans"][0]["step_time_s"]
            parts[kind] = breakdown(program, out)
    place = next((i + 1 for i, p in enumerate(plans["ours"]) if is_vendors(p, row)), None)
    change = {k: v - parts["ours"].get(k, 0) for k, v in parts["vendor"].items()}
    largest = sorted((k for k in change if abs(change[k]) > 0.0005), key=lambda k: -abs(change[k]))[:4]
    why = ", ".join(f"{k.replace('_', ' ')} {change[k]:+.3f}" for k in largest)
    published = float(row["step_s"])
    fifth = plans["ours"][-1]["step_time_s"]
    behind = f"no: {steps['vendor'] / steps['ours'] - 1:+.1%}, the fifth {fifth / steps['ours'] - 1:+.1%}"
    return [row["name"], f"{row['tp']}/{row['cp']}/{row['ep']}/{row['pp']}/{row['vpp']}", f"{published:.2f}",
            f"{steps['vendor']:.2f}", f"{steps['ours']:.2f}", words(plans["ours"][0]), str(place or behind), why]


def main():
    program, *names = [a for a in sys.argv[1:] if not a.startswith("-")]
    with open(os.path.join(ROOT, "tests", "data", "published", "vendor_plans.csv"), encoding="utf-8") as f:
        rows = [r for r in csv.DictReader(f) if not names or r["name"] in names]
    head = ["recipe", "its tp/cp/ep/pp/vpp", "published, s", "simulated, s", "our best, s", "which is",
            "among our five", "its step less ours, s"]
    table = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        try:
            cells = compare(program, row)
        except RuntimeError as e:
            cells = [row["name"], "", row["step_s"], "", "", "", "", str(e)]
        table.append("| " + " | ".join(cells) + " |")
        print(table[-1], flush=True)
    if "--write" in sys.argv:
        write(table)


def write(table):
    text = open(DOC, encoding="utf-8").read()
    made = {line.split("|")[1].strip(): line for line in table[2:]}
    kept = [line for line in text[text.index(BEGIN):text.index(END)].splitlines() if line.startswith("| ")][1:]
    rows = {line.split("|")[1].strip(): line for line in kept} | made
    lines = [f"{datetime.date.today().isoformat()}, `tests/e2e/vendor_plans.py`:", "", *table[:2], *rows.values()]
    with open(DOC, "w", encoding="utf-8") as f:
        block = BEGIN + "\n" + "\n".join(lines) + "\n" + END
        f.write(re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: block, text, flags=re.S))


if __name__ == "__main__":
    main()
