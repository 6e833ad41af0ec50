#!/usr/bin/env python3
"""Bad input of every kind, to every verb: refused with the right exit code and a message that says where and what.

Each case starts from a folder of good inputs, breaks one thing and runs one command. It must end with the exact exit
code, say on standard error what the pattern asks for (where, what was expected, what was found), print nothing on
standard output, and leave the folder as it was: no file made, changed or left over. Where a command names an output
(out.*), it runs twice: with an older file in its place, which must stay, and without.
"""
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
SHOW = "-v" in sys.argv
os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
AS_ROOT = os.geteuid() == 0
USAGE, INPUT, NOPLAN, TOLERANCE, FAULT, IO = 2, 3, 4, 5, 6, 8

GOOD = {
    "config.json": """{
  "model_type": "llama",
  "hidden_size": 32,
  "intermediate_size": 64,
  "num_hidden_layers": 4,
  "vocab_size": 256,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "rms_norm_eps": 1e-05,
  "hidden_act": "silu",
  "tie_word_embeddings": false
}
""",
    "cluster.yaml": """name: eight-cores
device: cpu-core
domains: 1
domain:
  kind: host
  trays: 1
  gpus_per_tray: 8
  cpus_per_tray: 1
  nvswitches: 0
  link: shm
  links_per_gpu: 1
""",
    "fabric.yaml": """name: four-nodes
device: h100
domains: 4
domain: { kind: hgx, trays: 1, gpus_per_tray: 8, cpus_per_tray: 2, nvswitches: 4, link: nvlink4, links_per_gpu: 18 }
nic: connectx7-400g
rails: 8
fabric:
  switch: quantum2-qm9700
  leaf_down: 32
  tiers: 2
  oversubscription: 1
  cables: { nic_leaf: 5m, leaf_spine: 30m }
""",
    "scenario.yaml": """name: bad-input
cluster: cluster.yaml
model: config.json
job:
  seq_len: 16
  global_batch: 8
  precision: f32
  gpus: 2
  optimizer: { kind: adamw, lr: 1e-3 }
  steps: 4
  seed: 1
  data: text.txt
plan: { split_head: false, slices: 1, pp: 2, tp: 1, micro_batch: 1, recompute: none, schedule: 1f1b }
""",
    "kernels.yaml": """kernels:
  - { kind: gemm, dtype: f32, flags: [tb], dims: [16, 64, 32, 1], time: 12us, n: 40 }
  - { kind: add, dtype: f32, dims: [512], time: 300ns }
transport:
  message_latency: 2us
  message_rate: 3GB/s
""",
    "device.yaml": (ROOT / "topo/catalog/devices/cpu-core.yaml").read_text().replace("name: cpu-core",
                    "name: own-core"),
    "text.txt": "The quick brown fox jumps over the lazy dog.\n" * 20,
}


def run(command, cwd):
    words = [str(BUILD / w) if w in ("staticfire", "staticfire-run") else w for w in command]
    return subprocess.run(words, capture_output=True, text=True, errors="replace", cwd=cwd, timeout=60)


def make_good(folder):
    for name, text in GOOD.items():
        (folder / name).write_text(text)
    scenario = GOOD["scenario.yaml"]
    (folder / "other.yaml").write_text(scenario.replace("seed: 1", "seed: 2"))
    (folder / "wide.yaml").write_text(scenario.replace("gpus: 2", "gpus: 4").replace("batch: 8", "batch: 32"))
    (folder / "three.yaml").write_text(scenario.replace("gpus: 2", "gpus: 3").replace("pp: 2", "pp: 3"))
    (folder / "small.yaml").write_text(scenario.replace("config.json", "small.json"))
    (folder / "small.json").write_text(GOOD["config.json"].replace('"vocab_size": 256', '"vocab_size": 64'))
    for command in (
            "staticfire plan scenario.yaml -o plan.yaml",
            "staticfire compile plan.yaml -o p.sfprog",
            "staticfire prog dump p.sfprog -o p.txt",
            "staticfire sim plan.yaml --forecast forecast.json",
            "staticfire-run p.sfprog --data text.txt --steps 4 --trace run.sftrace --quiet",
            "staticfire sim other.yaml --trace other.sftrace", "staticfire plan wide.yaml -o wide.plan",
            "staticfire plan three.yaml -o three.plan", "staticfire compile wide.plan -o wide.sfprog",
            "staticfire compile small.yaml -o small.sfprog"):
        result = run(command.split(), folder)
        if result.returncode:
            sys.exit(f"{command}\nexit {result.returncode}\n{result.stdout}{result.stderr}")


# ---- ways to break a file: each takes the good folder and returns the new bytes ------------------------------------

def edit(name, *changes):
    """Replace words that occur exactly once, so that a case cannot rot unnoticed."""
    def make(good):
        text = (good / name).read_text()
        for old, new in changes:
            if text.count(old) != 1:
                sys.exit(f"{name} holds {old!r} {text.count(old)} times; the case must name one place")
            text = text.replace(old, new)
        return text.encode()
    return make


def raw(data):
    return lambda good: data if isinstance(data, bytes) else data.encode()


def cut(name, bytes_n):
    return lambda good: (good / name).read_bytes()[:bytes_n]


def flip(name, at, bit=4):
    def make(good):
        data = bytearray((good / name).read_bytes())
        data[at] ^= 1 << bit
        return bytes(data)
    return make


def append(name, tail):
    return lambda good: (good / name).read_bytes() + tail


def text_op(name, start, change):
    """Change the one line of a text program that starts so."""
    def make(good):
        lines = (good / name).read_text().split("\n")
        found = [i for i, line in enumerate(lines) if line.startswith(start)]
        if not found:
            sys.exit(f"{name} has no line that starts with {start!r}")
        lines[found[0]] = change(lines[found[0]])
        return "\n".join(lines).encode()
    return make


CASES = []


def case(name, code, pattern, command, stdout="", **files):
    """`files`: name with _ for . (scenario_yaml=...) and how to make it; None removes it, DIR makes it a folder."""
    words = command.split() if isinstance(command, str) else command
    CASES.append((name, code, pattern, words, stdout, {k.replace("_", "."): v for k, v in files.items()}))


DIR = object()

# ---- scenarios -----------------------------------------------------------------------------------------------------

PLAN = "staticfire plan scenario.yaml -o out.plan"
S = "scenario.yaml"


def bad_scenario(name, code, pattern, *changes, command=PLAN):
    case("scenario: " + name, code, pattern, command, scenario_yaml=edit(S, *changes))


bad_scenario("unknown key", INPUT, r'scenario.yaml:5:3: unknown key "sequence_len"', ("seq_len:", "sequence_len:"))
bad_scenario("misspelt key", INPUT, r'scenario.yaml:6:3: .*"global_bach".*"global_batch"',
             ("global_batch", "global_bach"))
bad_scenario("word for a number", INPUT, r'scenario.yaml:5:12: expected .*found "sixteen"', ("16", "sixteen"))
bad_scenario("list for a number", INPUT, r"scenario.yaml:5:12: expected .*found a list", ("16", "[16]"))
bad_scenario("mapping for a text", INPUT, r"scenario.yaml:1:7: expected .*found a mapping", ("bad-input", "{ a: b }"))
bad_scenario("fraction", INPUT, r'scenario.yaml:6:17: expected .*found "8.5"', ("global_batch: 8", "global_batch: 8.5"))
bad_scenario("negative", INPUT, r'scenario.yaml:6:17: expected .*found "?-8', ("global_batch: 8", "global_batch: -8"))
bad_scenario("too large", INPUT, r"scenario.yaml:5:12: expected .*4194304.*found", ("16", "99999999"))
bad_scenario("overflow", INPUT, r"scenario.yaml:11:9: expected .*found", ("seed: 1", "seed: 99999999999999999999"))
bad_scenario("more GPUs than seats", INPUT, r"scenario.yaml:8:9: expected .*8.*found", ("gpus: 2", "gpus: 9"))
bad_scenario("duplicate key", INPUT, r'scenario.yaml:11:3: duplicate key "steps".*line 10', ("seed: 1", "steps: 5"))
bad_scenario("anchor", INPUT, r"scenario.yaml:5:12: anchors are not supported", ("16", "&s 16"))
bad_scenario("alias", INPUT, r"scenario.yaml:6:17: aliases are not supported", ("global_batch: 8", "global_batch: *s"))
bad_scenario("tag", INPUT, r"scenario.yaml:5:\d+: tags are not supported", ("16", "!!int 16"))
bad_scenario("tab", INPUT, r"scenario.yaml:5:\d+: .*tab", ("  seq_len", "\tseq_len"))
bad_scenario("second document", INPUT, r"scenario.yaml:13:\d+: expected one document", ("plan: {", "---\nplan: {"))
bad_scenario("open bracket", INPUT, r"scenario.yaml:\d+:\d+: ", (" schedule: 1f1b }", ""))
bad_scenario("missing key", INPUT, r'scenario.yaml:5:3: .*"seq_len"', ("  seq_len: 16\n", ""))
bad_scenario("word outside its list", INPUT, r'scenario.yaml:13:\d+: unknown word "2f2b", did you mean "1f1b"\?',
             ("1f1b", "2f2b"))
bad_scenario("unknown precision", INPUT, r'scenario.yaml:7:14: expected .*found "f16"', ("f32", "f16"))
bad_scenario("precision the device lacks", INPUT, r"scenario.yaml:7:14: device cpu-core has no fp8", ("f32", "fp8"))
bad_scenario("canonical in bf16", INPUT, r"scenario.yaml:\d+:14: canonical .*f32.*found bf16", ("f32", "bf16"),
             ("seed: 1", "canonical: true"))
bad_scenario("the same pin twice", INPUT, r"scenario.yaml:13:47: pp allows the same value twice",
             ("pp: 2", "pp: [2, 2]"))
bad_scenario("empty pin", INPUT, r"scenario.yaml:13:43: pp lists 1 to \d+ allowed values, found 0", ("pp: 2", "pp: []"))
bad_scenario("unknown optimizer", INPUT, r'scenario.yaml:9:22: unknown word "sgd", expected one of: adamw',
             ("adamw", "sgd"))
bad_scenario("cluster that is not there", IO, r"nowhere.yaml: cannot open file", (": cluster.yaml", ": nowhere.yaml"))
bad_scenario("model that is not there", IO, r"nowhere.json: cannot open file", ("config.json", "nowhere.json"))
bad_scenario("sim of a bad scenario", INPUT, r"scenario.yaml:5:12: expected", ("16", "sixteen"),
             command="staticfire sim scenario.yaml --trace out.sftrace")
bad_scenario("compile of a bad scenario", INPUT, r"scenario.yaml:5:12: expected", ("16", "sixteen"),
             command="staticfire compile scenario.yaml -o out.sfprog")
bad_scenario("run of a bad scenario", INPUT, r"scenario.yaml:5:12: expected", ("16", "sixteen"),
             command="staticfire run scenario.yaml -o out.sfprog --trace out.sftrace")
case("scenario: empty", INPUT, r"scenario.yaml:1:1: expected a scenario", PLAN, scenario_yaml=raw(""))
case("scenario: a list", INPUT, r"scenario.yaml:1:1: expected a scenario", PLAN, scenario_yaml=raw("- a\n- b\n"))
case("scenario: not UTF-8", INPUT, r"scenario.yaml:1:10: expected UTF-8 text, found the byte 0xff", PLAN,
     scenario_yaml=raw(b"name: bad\xff\n"))
case("scenario: NUL in the text", INPUT, r"scenario.yaml", PLAN, scenario_yaml=raw(b"name: bad\0\n"))
case("scenario: missing", IO, r"scenario.yaml: .*No such file", PLAN, scenario_yaml=None)
case("scenario: a folder", IO, r"scenario.yaml: expected a file, found a (directory|folder)", PLAN, scenario_yaml=DIR)
case("scenario: a program", INPUT, r"p.sfprog.*(scenario|program)", "staticfire plan p.sfprog -o out.plan")
case("scenario: a plan", USAGE, r"plan.yaml is a plan already; staticfire sim", "staticfire plan plan.yaml -o out.plan")
case("scenario: deeply nested", INPUT, r"scenario.yaml:1:\d+: expected at most 64 levels", PLAN,
     scenario_yaml=raw("[" * 200 + "]" * 200))
case("scenario: a device that never ends", INPUT, r"/dev/zero", "staticfire plan /dev/zero -o out.plan")

# ---- plans that cannot be ------------------------------------------------------------------------------------------

bad_scenario("pins exclude everything", NOPLAN, r"no plan fits.*\bpp\b", ("pp: 2", "pp: 3"))
bad_scenario("tp pinned to no divisor of the heads", NOPLAN, r"no plan fits.*heads", ("gpus: 2", "gpus: 8"),
             ("tp: 1", "tp: 8"), ("pp: 2", "pp: 1"))
bad_scenario("ep without experts", NOPLAN, r"no plan fits.*experts", ("pp: 2", "ep: 2"))
bad_scenario("micro_batch does not divide the batch", NOPLAN, r"no plan fits.*micro_batch",
             ("micro_batch: 1", "micro_batch: 3"))
bad_scenario("dp does not divide the batch", NOPLAN, r"no plan fits.*batch", ("gpus: 2", "gpus: 6"))
case("scenario: too little memory", NOPLAN, r"no plan fits.*(over|too much|more than|needs).*B", PLAN,
     cluster_yaml=edit("cluster.yaml", ("device: cpu-core", "device: device.yaml")),
     device_yaml=edit("device.yaml", ("value: 2GB", "value: 100kB")))

# ---- plan files ----------------------------------------------------------------------------------------------------

P = "plan.yaml"
COMPILE = "staticfire compile plan.yaml -o out.sfprog"


def bad_plan(name, code, pattern, *changes, command=COMPILE, **files):
    case("plan: " + name, code, pattern, command, plan_yaml=edit(P, *changes), **files)


bad_plan("unknown key", INPUT, r'plan.yaml:5:1: unknown key "tq"', ("\ntp: 1", "\ntq: 1"))
bad_plan("missing key", INPUT, r'plan.yaml:\d+:\d+: .*"dp"', ("\ndp: 1", "\n#"))
bad_plan("other version", INPUT, r"plan.yaml:2:15: expected plan version 1, found 2: plan again",
         ("plan_version: 1", "plan_version: 2"))
bad_plan("hash of the wrong length", INPUT, r"plan.yaml:4:16: expected 32 lower-case hex digits",
         ('scenario_hash: "', 'scenario_hash: "ab'))
bad_plan("made for another scenario", INPUT, r"plan.yaml: .*scenario.*plan again",
         ("plan_version: 1", "plan_version: 1 "),
         scenario_yaml=edit(S, ("seed: 1", "seed: 7")))
bad_plan("its scenario is gone", IO, r"scenario.yaml: .*plan.yaml.*cannot open",
         ("plan_version: 1", "plan_version: 1 "),
         scenario_yaml=None)
bad_plan("layers do not add up", INPUT, r"plan.yaml:\d+:\d+: .*layers must add up to the model's 4, found 5",
         ("[2, 2]", "[2, 3]"))
bad_plan("too few layer counts", INPUT, r"plan.yaml:\d+:9: layers lists one count per virtual stage", ("[2, 2]", "[4]"))
case("plan: a stage without layers", INPUT, r"three.plan:\d+:\d+: .*layers.1. is 0; every virtual stage between the first and the last needs",
     "staticfire compile three.plan -o out.sfprog", three_plan=edit("three.plan", ("[1, 2, 1]", "[2, 0, 2]")))
case("plan: tp does not divide the heads", INPUT,
     r"three.plan:5:5: .*tp must divide the attention heads: 4 is no multiple of 3",
     "staticfire compile three.plan -o out.sfprog",
     three_plan=edit("three.plan", ("\ntp: 1", "\ntp: 3"), ("\npp: 3", "\npp: 1"), ("[1, 2, 1]", "[4]")))
case("plan: tp does not divide the kv heads", INPUT,
     r"wide.plan:5:5: .*tp must divide the key-value heads: 2 is no multiple of 4",
     "staticfire compile wide.plan -o out.sfprog",
     wide_plan=edit("wide.plan", ("\ntp: 1", "\ntp: 4"), ("\npp: 2", "\npp: 1"), ("\ndp: 2", "\ndp: 1"),
                    ("[2, 2]", "[4]")))
case("plan: ep without experts", INPUT, r"wide.plan:6:5: .*ep must be 1 for a model without experts, found 2",
     "staticfire compile wide.plan -o out.sfprog", wide_plan=edit("wide.plan", ("\nep: 1", "\nep: 2")))
bad_plan("ep does not divide dp", INPUT, r"plan.yaml:\d+:\d+: .*ep must divide dp, found 2 and 1",
         ("\nep: 1", "\nep: 2"))
bad_plan("ranks that are not the job's", INPUT, r"plan.yaml:\d+:\d+: .*tp \* dp \* pp must equal the job's 2 GPUs",
         ("\ndp: 1", "\ndp: 2"))
bad_plan("batch does not come out", INPUT, r"plan.yaml:\d+:\d+: .*must equal the job's global batch of 8",
         ("microbatches: 8", "microbatches: 7"))
bad_plan("interleaved without chunks", INPUT, r"plan.yaml:\d+:\d+: .*interleaved needs vpp and pp of at least 2",
         ("schedule: 1f1b", "schedule: interleaved"))
bad_plan("more seats than a domain has", INPUT, r"plan.yaml:\d+:\d+: .*ranks_per_domain is at most the 8 GPUs",
         ("ranks_per_domain: 8", "ranks_per_domain: 9"))
bad_plan("canonical against the job", INPUT, r"plan.yaml:\d+:\d+: .*canonical must be what the job says",
         ("canonical: false", "canonical: true"))
bad_plan("word for yes or no", INPUT, r'plan.yaml:\d+:12: expected true or false, found "maybe"',
         ("canonical: false", "canonical: maybe"))
bad_plan("sim of a bad plan", INPUT, r"plan.yaml:\d+:\d+: .*layers must add up", ("[2, 2]", "[2, 3]"),
         command="staticfire sim plan.yaml --forecast out.json")
bad_plan("run of a bad plan", INPUT, r"plan.yaml:\d+:\d+: .*layers must add up", ("[2, 2]", "[2, 3]"),
         command="staticfire run plan.yaml -o out.sfprog")
bad_plan("made for a cluster with more memory", INPUT, r"plan.yaml: the plan was made for scenario .*plan again",
         ("plan_version: 1", "plan_version: 1 "),
         command="staticfire compile plan.yaml --cluster small.yaml -o out.sfprog",
         small_yaml=edit("cluster.yaml", ("device: cpu-core", "device: device.yaml")),
         device_yaml=edit("device.yaml", ("value: 2GB", "value: 200kB")))
case("plan: cut off", INPUT, r"plan.yaml:\d+:\d+: ", COMPILE, plan_yaml=cut(P, 400))
case("plan: cut off inside the list", INPUT, r"plan.yaml:\d+:\d+: ", COMPILE,
     plan_yaml=lambda g: (g / P).read_bytes()[:-3])

# ---- models --------------------------------------------------------------------------------------------------------

C = "config.json"


def bad_model(name, pattern, *changes):
    case("model: " + name, INPUT, pattern, PLAN, config_json=edit(C, *changes))


bad_model("unknown key", r'config.json:3:3: unknown key "hiden_size".*"hidden_size"', ('"hidden_size"', '"hiden_size"'))
bad_model("unknown type", r'config.json:2:17: unknown word "bert", expected one of: llama', ('"llama"', '"bert"'))
bad_model("keys of another family", r'config.json:\d+:\d+: unknown key "hidden_size"', ('"llama"', '"gpt2"'))
bad_model("rope_scaling", r"config.json:\d+:\d+: rope_scaling asks for .*cannot be trained here; supported: null",
          ('"hidden_act"', '"rope_scaling": { "type": "linear", "factor": 2.0 },\n  "hidden_act"'))
bad_model("attention biases", r"config.json:\d+:\d+: expected true or false, found .*maybe", ('"hidden_act"',
          '"attention_bias": "maybe", "hidden_act"'))
bad_model("mlp biases", r"config.json:\d+:\d+: mlp_bias: true asks for biases in experts", ('"llama"', '"mixtral"'),
          ('"hidden_act"', '"mlp_bias": true, "num_local_experts": 8, "num_experts_per_tok": 2, "hidden_act"'))
bad_model("sliding window", r"config.json:\d+:\d+: sliding_window asks for attention inside a window",
          ('"hidden_act"', '"sliding_window": 4096, "hidden_act"'))
bad_model("dropout", r"config.json:\d+:\d+: attention_dropout: 0.1 asks for dropout",
          ('"hidden_act"', '"attention_dropout": 0.1, "hidden_act"'))
bad_model("experts in a dense model", r"config.json:\d+:\d+: num_local_experts is for mixtures of experts",
          ('"hidden_act"', '"num_local_experts": 8, "hidden_act"'))
bad_model("unknown activation", r'config.json:\d+:\d+: hidden_act "relu" is not supported; supported: silu',
          ('"silu"', '"relu"'))
bad_model("kv heads do not divide the heads",
          r"config.json:8:\d+: num_key_value_heads must divide num_attention_heads, found 3 and 4",
          ('"num_key_value_heads": 2', '"num_key_value_heads": 3'))
bad_model("odd head_dim", r"config.json:\d+:\d+: rotary embeddings need an even head_dim, found 3",
          ('"hidden_act"', '"head_dim": 3, "hidden_act"'))
bad_model("no layers", r"config.json:5:24: expected .*found .*0", ('"num_hidden_layers": 4', '"num_hidden_layers": 0'))
bad_model("text for a number", r'config.json:6:17: expected .*found .*"?many"?', ('256', '"many"'))
bad_model("duplicate key", r'config.json:\d+:\d+: duplicate key "hidden_size"',
          ('"rms_norm_eps": 1e-05', '"hidden_size": 32'))
bad_model("comment in JSON", r"config.json:2:\d+: ", ('"model_type"', '// a comment\n  "model_type"'))
bad_model("comma before the end", r"config.json:\d+:\d+: ",
          ('"tie_word_embeddings": false', '"tie_word_embeddings": false,'))
case("model: cut off", INPUT, r"config.json:\d+:\d+: ", PLAN, config_json=cut(C, 100))
case("model: cut off inside a word", INPUT, r"config.json:\d+:\d+: ", PLAN, config_json=cut(C, 95))
case("model: empty", INPUT, r"config.json:1:1: expected the mapping of a Hugging Face config.json", PLAN,
     config_json=raw(""))
case("model: a folder", IO, r"config.json: expected a file, found a (directory|folder)", PLAN, config_json=DIR)

# ---- clusters ------------------------------------------------------------------------------------------------------

K = "cluster.yaml"
TOPO = "staticfire topo show cluster.yaml --svg out.svg"


def bad_cluster(name, pattern, *changes, command=TOPO):
    case("cluster: " + name, INPUT, pattern, command, cluster_yaml=edit(K, *changes))


bad_cluster("unknown key", r'cluster.yaml:2:1: unknown key "devise".*"device"', ("device:", "devise:"))
bad_cluster("device not in the catalog",
            r"cluster.yaml:2:9: cannot read .*devices/tpu9.yaml from the catalog's devices", ("cpu-core", "tpu9"))
bad_cluster("link not in the catalog", r"cluster.yaml:10:9: cannot read .*links/rope.yaml", ("shm", "rope"))
bad_cluster("name that leaves the catalog", r"cluster.yaml:2:9: expected a name from the catalog's devices",
            ("cpu-core", "../../secret"))
bad_cluster("no domains", r"cluster.yaml:3:10: expected .*found .*0", ("domains: 1", "domains: 0"))
bad_cluster("more seats than there may be", r"cluster.yaml:\d+:\d+: .*limit",
            ("gpus_per_tray: 8", "gpus_per_tray: 16777216"), ("trays: 1", "trays: 16777216"))
bad_cluster("more in use than seats", r"cluster.yaml:2:14: 9 GPUs in use, but 1 domains? of 8 GPUs have 8 seats",
            ("device:", "gpus_in_use: 9\ndevice:"))
bad_cluster("fabric for one domain", r"cluster.yaml:2:6: a single domain has no fabric",
            ("device:", "nic: connectx7-400g\ndevice:"))
bad_cluster("domains without a fabric", r'cluster.yaml:1:1: .*"nic"', ("domains: 1", "domains: 2"))
bad_cluster("through plan", r'cluster.yaml:2:1: unknown key "devise"', ("device:", "devise:"), command=PLAN)
bad_cluster("through check", r'cluster.yaml:2:1: unknown key "devise"', ("device:", "devise:"),
            command="staticfire topo check cluster.yaml")
case("cluster: through sim of a program", INPUT, r'cluster.yaml:2:1: unknown key "devise"',
     "staticfire sim p.sfprog --cluster cluster.yaml --trace out.sftrace", cluster_yaml=edit(K, ("device:", "devise:")))
case("cluster: rails do not divide", INPUT, r"fabric.yaml:6:8: 3 rails do not divide the 8 GPUs",
     "staticfire topo show fabric.yaml",
     fabric_yaml=edit("fabric.yaml", ("rails: 8", "rails: 3")))
case("cluster: leaf with too few ports", INPUT, r"fabric.yaml:9:14: a leaf needs 96 ports",
     "staticfire topo show fabric.yaml",
     fabric_yaml=edit("fabric.yaml", ("leaf_down: 32", "leaf_down: 48")))
case("cluster: cable without a unit", INPUT, r'fabric.yaml:12:23: expected a length in metres.*found "5"',
     "staticfire topo check fabric.yaml --svg out.svg",
     fabric_yaml=edit("fabric.yaml", ("nic_leaf: 5m", "nic_leaf: 5")))
case("cluster: missing", IO, r"cluster.yaml: .*No such file", TOPO, cluster_yaml=None)

# Planes, routing, groups, overlays: in the cluster file, or in a file of their own.
FAB = "fabric.yaml"
BIG = "9223372036854775808"


def bad_fabric(name, pattern, *changes, command="staticfire topo check fabric.yaml --svg out.svg"):
    case("fabric: " + name, INPUT, pattern, command, fabric_yaml=edit(FAB, *changes))


def bad_overlay(name, pattern, text):
    case("overlay: " + name, INPUT, r"fabric.yaml:13:" + pattern, "staticfire topo check fabric.yaml --svg out.svg",
         fabric_yaml=append(FAB, f"overlay: {text}\n".encode()))


bad_fabric("three planes", r"fabric.yaml:6:9: expected 1, 2 or 4 planes", ("rails: 8", "planes: 3\nrails: 8"))
bad_fabric("no planes", r"fabric.yaml:6:9: .*whole number from 1", ("rails: 8", "planes: 0\nrails: 8"))
bad_fabric("planes without end", r"fabric.yaml:6:9: .*whole number", ("rails: 8", f"planes: {BIG}\nrails: 8"))
bad_fabric("ports over-used by a plane", r"fabric.yaml:10:14: a leaf needs 128 ports \(64 down, 64 up\), but .* has 64",
           ("rails: 8", "planes: 2\nrails: 8"), ("leaf_down: 32", "leaf_down: 64"))
bad_fabric("unknown routing", r'fabric.yaml:11:12: .*unknown word "shortest"',
           ("  tiers: 2", "  tiers: 2\n  routing: shortest"))
bad_fabric("seed without a hash", r"fabric.yaml:11:9: a seed belongs to routing: ecmp",
           ("  tiers: 2", "  tiers: 2\n  seed: 3"))
bad_fabric("routing of rails where there is one", r"fabric.yaml:11:12: .*one rail, so pxn would be the same",
           ("rails: 8", "rails: 1"), ("  tiers: 2", "  tiers: 2\n  routing: pxn"))
bad_fabric("groups beside a device", r"fabric.yaml:2:9: device stands in each of the groups",
           ("rails: 8", "groups: []\nrails: 8"))
bad_fabric("more in use than a domain has", r"fabric.yaml:4:\d+: .*whole number from 1 to 8",
           ("links_per_gpu: 18 }", "links_per_gpu: 18, gpus_in_use: 9 }"))
GROUP = ("  - { device: h100, domains: 2, nic: connectx7-400g, domain: { kind: a, trays: 1, gpus_per_tray: %d, "
         "cpus_per_tray: 1, nvswitches: 1, link: nvlink4, links_per_gpu: 18 } }\n")
case("fabric: groups of unequal domains", INPUT, r"groups.yaml:4:\d+: domains of 4 GPUs beside domains of 8",
     "staticfire topo check groups.yaml", groups_yaml=raw("name: mixed\ngroups:\n" + GROUP % 8 + GROUP % 4))
bad_overlay("unknown key", r'12: unknown key "deed"', "{ deed: {} }")
bad_overlay("GPU that is not there", r"27: gpu 32 is out of range: there are 32", '{ dead: { gpus: ["32"] } }')
bad_overlay("GPU without end", r"27: expected a number or a range", '{ dead: { gpus: ["%s"] } }' % BIG)
bad_overlay("switch that is not there", r"31: core 0 is out of range: there are 0", "{ dead: { switches: [core 0] } }")
bad_overlay("port that is not there", r"28: port 32 is out of range", '{ dead: { links: ["leaf-up 3:32"] } }')
bad_overlay("named twice", r"43: named twice", '{ dead: { links: ["leaf-up 3:1", "leaf-down 3:0..4"] } }')
bad_overlay("faster than it is", r"\d+: expected a number from", '{ degraded: [{ nics: ["1"], rate: 2 }] }')
case("overlay: all spare", INPUT, r"fabric.yaml:1:1: 1 GPUs in use, but of 32 seats only 0",
     "staticfire topo check fabric.yaml", fabric_yaml=append(FAB, b'overlay: { spare: { domains: ["0..3"] } }\n'))
case("overlay: a file that is not there", INPUT, r"fabric.yaml:13:10: cannot read the overlay gone.yaml",
     "staticfire topo check fabric.yaml", fabric_yaml=append(FAB, b"overlay: gone.yaml\n"))
case("overlay: aliases", INPUT, r"today.yaml:1:\d+: .*alias|today.yaml:1:\d+: .*anchor",
     "staticfire topo check fabric.yaml --overlay today.yaml",
     today_yaml=raw("dead: { gpus: [&a \"1\", " + "*a, " * 1000 + "*a] }\n"))
case("overlay: a file of its own", INPUT, r"today.yaml:2:\d+: leaf 8 is out of range: there are 8",
     "staticfire topo check fabric.yaml --overlay today.yaml", today_yaml=raw("dead:\n  switches: [leaf 8]\n"))
case("overlay: a route to what is dead", INPUT, r"today.yaml:1:16: gpu 9 is dead",
     "staticfire topo show fabric.yaml --overlay today.yaml --route 0:9", today_yaml=raw('dead: { gpus: ["9"] }\n'))
case("routing: rails apart", INPUT, r"gpu 0 is on rail 0 and gpu 9 on rail 1: choose pxn",
     "staticfire topo show fabric.yaml --routing rail-local --route 0:9")

OWN = {"cluster_yaml": edit(K, ("device: cpu-core", "device: device.yaml"))}


def bad_device(name, pattern, *changes):
    case("device: " + name, INPUT, pattern, TOPO, device_yaml=edit("device.yaml", *changes), **OWN)


bad_device("unit missing", r'device.yaml:\d+:18: expected .*unit.*found "2"', ("value: 2GB", "value: 2"))
bad_device("unit of another quantity", r'device.yaml:\d+:18: expected .*found "2GFLOP/s"',
           ("value: 2GB", "value: 2GFLOP/s"))
bad_device("number without a source", r'device.yaml:\d+:\d+: .*"source"',
           (', source: "assumed: one indirect call"', ""))
bad_device("unknown grade", r'device.yaml:15:70: unknown word "guess", expected one of: .*datasheet',
           ('indirect call", grade: extrapolated', 'indirect call", grade: guess'))
bad_device("share above one", r"device.yaml:\d+:\d+: expected .*found .*1.2",
           ("memory_efficiency: { value: 0.8", "memory_efficiency: { value: 1.2"))
bad_device("rate of nothing", r"device.yaml:\d+:23: expected more than zero", ("8GB/s", "0GB/s"))
bad_device("not a number", r"device.yaml:\d+:\d+: expected .*found .*nan", ("value: 200ns", "value: nanns"))

# ---- kernel tables -------------------------------------------------------------------------------------------------

SIM = "staticfire sim plan.yaml --kernels kernels.yaml --forecast out.json"


def bad_kernels(name, pattern, *changes):
    case("kernels: " + name, INPUT, pattern, SIM, kernels_yaml=edit("kernels.yaml", *changes))


bad_kernels("unknown kernel", r"kernels.yaml:2:13: expected the name of a compute call .*found 'gem'",
            ("kind: gemm", "kind: gem"))
bad_kernels("too few dims", r"kernels.yaml:2:50: expected a list of 4 dims for gemm, found 2",
            ("[16, 64, 32, 1]", "[16, 64]"))
bad_kernels("unit missing", r'kernels.yaml:2:\d+: expected .*found "12"', ("12us", "12"))
bad_kernels("unknown flag", r"kernels.yaml:2:39: unknown flag 'tc'; known", ("[tb]", "[tc]"))
bad_kernels("unknown precision", r"kernels.yaml:3:25: expected f32, bf16 or fp8, found 'f64'",
            ("add, dtype: f32", "add, dtype: f64"))
bad_kernels("measured twice", r"kernels.yaml:\d+:\d+: the same kernel is measured twice",
            ("transport:", "  - { kind: add, dtype: f32, dims: [512], time: 1us }\ntransport:"))
bad_kernels("rate of nothing", r"kernels.yaml:6:17: expected a rate above zero", ("3GB/s", "0GB/s"))
case("kernels: missing", IO, r"kernels.yaml: cannot open file", SIM, kernels_yaml=None)
case("kernels: empty", INPUT, r"kernels.yaml:1:1: expected a map", SIM, kernels_yaml=raw(""))

# ---- programs ------------------------------------------------------------------------------------------------------

ASM = "staticfire prog asm p.txt -o out.sfprog"
CHECK = "staticfire prog check p.sfprog"
RUN = "staticfire-run p.sfprog --data text.txt --steps 1 --trace out.sftrace --dump out.safetensors"


def bad_text(name, pattern, start, change, command=ASM, code=INPUT):
    case("program text: " + name, code, pattern, command, p_txt=text_op("p.txt", start, change))


bad_text("dependency on a later op", r"p.txt:\d+:1: .*op 3 .*depends on op 5, which does not come before it",
         "  op 3 send",
         lambda s: s.replace("deps=2", "deps=5"))
bad_text("dependency on itself", r"p.txt:\d+:1: .*op 3 .*depends on op 3, which does not come before it", "  op 3 send",
         lambda s: s.replace("deps=2", "deps=3"))
bad_text("dependency on no op", r"p.txt:\d+:1: .*op 3 .*depends on op 9999", "  op 3 send",
         lambda s: s.replace("deps=2", "deps=9999"))
bad_text("dependency left out", r"p.txt.*op \d+ .*same time as op \d+", "  op 3 send",
         lambda s: s.replace(" deps=2", ""))
bad_text("send without its receive", r"p.txt.*(no receive matches this send|no send matches this receive|another size)",
         "  op 3 send",
         lambda s: s.replace("comm=pp.fwd", "comm=pp.bwd"))
bad_text("send of another size", r"p.txt.*op \d+ .*its send has another size", "  op 3 send",
         lambda s: s.replace("bytes=2048", "bytes=1024").replace("0+2048", "0+1024"))
bad_text("peer off the axis", r"p.txt:\d+:1: .*op 3 .*peer offset 7 on an axis of size 2", "  op 3 send",
         lambda s: s.replace("peer=+1", "peer=+7"))
bad_text("argument outside its buffer", r"p.txt:\d+:1: .*op 3 .*argument 0 is not a range of a buffer", "  op 3 send",
         lambda s: s.replace("0+2048", "64+2048"))
bad_text("unknown stream", r'p.txt:\d+:\d+: .*"fwd.sent"', "  op 3 send", lambda s: s.replace("fwd.send", "fwd.sent"))
bad_text("unknown kind of op", r'p.txt:\d+:8: .*"sendd"', "  op 3 send", lambda s: s.replace("send ", "sendd ", 1))
bad_text("unknown field", r'p.txt:\d+:\d+: expected .*bytes=.*found "size=2048"', "  op 3 send",
         lambda s: s.replace("bytes=", "size="))
bad_text("field twice", r"p.txt:\d+:\d+: .*bytes", "  op 3 send", lambda s: s + " bytes=2048")
bad_text("number too large", r"p.txt:\d+:\d+: expected .*found", "  op 3 send",
         lambda s: s.replace("bytes=2048", "bytes=99999999999999999999"))
bad_text("op out of order", r"p.txt:\d+:6: expected .*3.*found .*4", "  op 3 send", lambda s: s.replace("op 3", "op 4"))
bad_text("backward left out", r"p.txt.*have no backward", "  op 8 backward",
         lambda s: s.replace("backward", "accumulate", 1))
bad_text("operand outside its argument", r"p.txt.*operand \d+ lies outside argument", "  call embed_fwd",
         lambda s: s.replace("y=2+0", "y=2+999999"))
bad_text("negative dimension", r"p.txt.*(dimension 0 is -16|expected)", "  call embed_fwd",
         lambda s: s.replace("rows=16", "rows=-16"))
bad_text("arena over the device", r"p.txt: class 0 .* needs 587.8 kB but its device has 1.000 kB: 586.8 kB .*too much",
         "placement", lambda s: s.replace("device_memory_bytes=2000000000", "device_memory_bytes=1000"),
         code=NOPLAN)
bad_text("other version", r'p.txt:1:\d+: expected .*3.*found "?1', "staticfire program",
         lambda s: "staticfire program 1")
bad_text("not UTF-8 but a name", r"p.txt:2:\d+: ", "title", lambda s: s[:-1])
bad_text("through prog check", r"p.txt:\d+:1: .*op 3 .*depends on op 5", "  op 3 send",
         lambda s: s.replace("deps=2", "deps=5"),
         command="staticfire prog check p.txt")
case("program text: a cycle over two streams", INPUT, r"p.txt.*depends on op \d+, which does not come before it", ASM,
     p_txt=text_op("p.txt", "  op 2 forward", lambda s: s.replace("deps=0", "deps=0,4")))
case("program text: cut off", INPUT, r"p.txt:\d+:\d+: expected", ASM, p_txt=cut("p.txt", 9000))
case("program text: empty", INPUT, r'p.txt:1:1: expected .*"staticfire program', ASM, p_txt=raw(""))
for command in ("staticfire-run p.txt --data text.txt --trace out.sftrace", "staticfire compile p.txt -o out.sfprog",
                "staticfire sim p.txt --cluster cluster.yaml --trace out.sftrace", "staticfire plan p.txt -o out.plan"):
    case("program text: " + command.split(" p.txt")[0], INPUT,
         r"p.txt:\d+:1: class 0 .*op 3 .*backwards|p.txt: expected a scenario", command,
         p_txt=text_op("p.txt", "  op 3 send", lambda s: s.replace("deps=2", "deps=5")))

for at, what in ((0, "magic"), (9, "version"), (17, "length"), (30, "digest"), (40, "payload"), (20000, "middle")):
    case(f"program: a bit flipped in its {what}", INPUT, r"p.sfprog: at byte \d+: .+", CHECK,
         p_sfprog=flip("p.sfprog", at))
for size in (0, 5, 8, 12, 39, 40, 1000, 30000):
    case(f"program: cut to {size} bytes", INPUT, r"p.sfprog: at byte \d+: .*cut off|p.sfprog:1:1: expected a program",
         CHECK, p_sfprog=cut("p.sfprog", size))
case("program: bytes behind it", INPUT, r"p.sfprog: at byte \d+: the file is cut off or has a tail", CHECK,
     p_sfprog=append("p.sfprog", b"x"))
case("program: a trace", INPUT, r"run.sftrace: at byte 0: .*program", "staticfire prog check run.sftrace")
case("program: missing", IO, r"p.sfprog: .*No such file", CHECK, p_sfprog=None)
case("program: a folder", IO, r"p.sfprog: expected a file, found a (directory|folder)", CHECK, p_sfprog=DIR)
case("program: flipped, to sim", INPUT, r"p.sfprog: at byte \d+: ",
     "staticfire sim p.sfprog --cluster cluster.yaml --trace out.sftrace",
     p_sfprog=flip("p.sfprog", 5000))
case("program: flipped, to the runtime", INPUT, r"p.sfprog: at byte \d+: .*damaged", RUN,
     p_sfprog=flip("p.sfprog", 5000))
case("program: cut off, to the runtime", INPUT, r"p.sfprog: at byte \d+: .*cut off", RUN,
     p_sfprog=cut("p.sfprog", 5000))
case("program: cut off, to run", INPUT, r"p.sfprog: at byte \d+: .*cut off",
     "staticfire run p.sfprog --data text.txt --trace out.sftrace",
     p_sfprog=cut("p.sfprog", 5000))
case("program: dump of a damaged one", INPUT, r"p.sfprog: at byte \d+: ", "staticfire prog dump p.sfprog -o out.txt",
     p_sfprog=flip("p.sfprog", 5000))
case("program: hash of a damaged one", INPUT, r"p.sfprog: at byte \d+: ", "staticfire prog hash p.sfprog",
     p_sfprog=flip("p.sfprog", 5000))
case("program: compile of a program", USAGE, r"p.sfprog is a compiled program already",
     "staticfire compile p.sfprog -o out.sfprog")

# ---- traces and forecasts ------------------------------------------------------------------------------------------

T = "run.sftrace"
COMPARE = "staticfire compare forecast.json run.sftrace --report out.html"
for at, what in ((3, "magic"), (9, "version"), (30, "header"), (-100, "records"), (-20, "footer"), (-3, "digest")):
    case(f"trace: a bit flipped in its {what}", INPUT, r"run.sftrace: at byte \d+: .+",
         "staticfire trace dump run.sftrace -o out.txt", run_sftrace=flip(T, at))
for size in (0, 4, 20, 500, 3000):
    case(f"trace: cut to {size} bytes", INPUT, r"run.sftrace: at byte \d+: .+", "staticfire trace info run.sftrace",
         run_sftrace=cut(T, size))
case("trace: bytes behind it", INPUT, r"run.sftrace: at byte \d+: ", "staticfire trace info run.sftrace",
     run_sftrace=append(T, b"tail"))
case("trace: a program", INPUT, r"p.sfprog: at byte \d+: expected a trace", "staticfire trace info p.sfprog")
case("trace: a text", INPUT, r"text.txt: at byte \d+: expected a trace", "staticfire trace info text.txt")
case("trace: missing", IO, r"run.sftrace: .*No such file", "staticfire trace info run.sftrace", run_sftrace=None)
case("compare: trace of another program", INPUT, r"different programs: predicted [0-9a-f]{32}, measured [0-9a-f]{32}",
     "staticfire compare other.sftrace run.sftrace --program p.sfprog --report out.html")
case("compare: another program than the traces'", INPUT, r"trace is of program [0-9a-f]{32}, but the program given is",
     "staticfire compare forecast.sftrace run.sftrace --program other.sfprog --report out.html")
case("compare: damaged measurement", INPUT, r"run.sftrace: at byte \d+: .*damaged", COMPARE, run_sftrace=flip(T, -100))
case("compare: another forecast's trace", INPUT, r"forecast.json.*other.sftrace.*sealed for program",
     "staticfire compare other.sftrace run.sftrace --forecast forecast.json --report out.html")
case("compare: no program to be found", USAGE, r"name the program they are of with --program",
     "staticfire compare run.sftrace run.sftrace")
case("compare: too few iterations", INPUT, r"has 4 iterations and the first 4 are left out", COMPARE + " --skip 4")
case("compare: replay on another cluster", INPUT, r"rests on cost model", COMPARE + " --cluster fabric.yaml")
case("compare: kernels without a cluster", USAGE, r"--kernels needs --cluster",
     "staticfire compare forecast.sftrace run.sftrace --kernels kernels.yaml")
case("compare: outside the tolerance", TOLERANCE, r"^$",
     "staticfire compare forecast.json run.sftrace --tolerance 0.0001%", stdout="outside tolerance")
case("compare: loss log that is none", INPUT, r"text.txt:1:\d+: expected the log or the JSON",
     COMPARE + " --loss text.txt")
case("compare: loss without a report", USAGE, r"--loss is for the report",
     "staticfire compare forecast.json run.sftrace --loss text.txt")


def bad_forecast(name, pattern, *changes):
    case("forecast: " + name, INPUT, pattern, COMPARE, forecast_json=edit("forecast.json", *changes))


bad_forecast("step time made better",
             r"forecast.json: the seal is broken: it says [0-9a-f]{32}, but the content hashes to",
             ('"step_time_ps": 1', '"step_time_ps": 2'))
bad_forecast("another trace", r"forecast.json: the seal is broken", ('"trace": "forecast', '"trace": "other'))
bad_forecast("key left out", r'forecast.json: .*"seed"', ('"seed"', '"sed"'))
bad_forecast("seal of the wrong length", r'forecast.json: "seal" must be 32 hex digits', ('"seal": "', '"seal": "00'))
bad_forecast("other version", r"forecast.json: expected staticfire-forecast version 1, found .*version 2",
             ('"version": 1', '"version": 2'))
bad_forecast("number that is text", r'forecast.json: .*"step_cpu_ps"', ('"step_cpu_ps": ', '"step_cpu_ps": "x", "y": '))
case("forecast: cut off", INPUT, r"forecast.json:\d+:\d+: ", COMPARE, forecast_json=cut("forecast.json", 200))
case("forecast: its trace was replaced", INPUT,
     r"forecast.json and forecast.sftrace: the forecast was sealed for topology [0-9a-f]{32}, but", COMPARE,
     forecast_sftrace=lambda g: (g / T).read_bytes())
case("forecast: its trace is gone", IO, r"forecast.sftrace: .*No such file", COMPARE, forecast_sftrace=None)

# ---- data ----------------------------------------------------------------------------------------------------------

case("data: too short", INPUT, r"text.txt: the text has 16 bytes: expected at least 17", RUN, text_txt=raw("x" * 16))
case("data: empty", INPUT, r"text.txt: the text has 0 bytes: expected at least 17", RUN, text_txt=raw(""))
case("data: missing", IO, r"text.txt: cannot open file", RUN, text_txt=None)
case("data: a folder", IO, r"text.txt: expected a file, found a (directory|folder)", RUN, text_txt=DIR)
case("data: bytes outside the vocabulary", INPUT, r"text.txt:1:1: byte 84 is outside the vocabulary of 64 tokens",
     "staticfire-run small.sfprog --data text.txt --trace out.sftrace")
case("data: not named", USAGE, r"name a text with --data", "staticfire-run p.sfprog --trace out.sftrace")

# ---- command lines -------------------------------------------------------------------------------------------------

for verb, operands in (("topo", "show cluster.yaml"), ("plan", "scenario.yaml"), ("sim", "plan.yaml"),
                       ("compile", "plan.yaml"),
                       ("prog", "check p.sfprog"), ("trace", "info run.sftrace"), ("run", "p.sfprog"),
                       ("compare", "forecast.json run.sftrace"), ("doctor", "")):
    case(f"usage: {verb} with an unknown option", USAGE, rf"unknown option --wibble; see staticfire {verb} --help",
         f"staticfire {verb} {operands} --wibble")
    case(f"usage: {verb} with one operand too many", USAGE,
         rf'unexpected argument "extra"; see staticfire {verb} --help',
         f"staticfire {verb} {operands} {'x ' if verb == 'topo' else ''}extra".replace("x extra", "extra"))
    case(f"usage: {verb} with an option without its value", USAGE, r"option --catalog needs a value",
         f"staticfire {verb} {operands} --catalog")
    if operands:
        case(f"usage: {verb} without operands", USAGE, rf"something is missing: usage is staticfire {verb}",
             f"staticfire {verb}")
case("usage: unknown verb", USAGE, r'unknown verb "plam"; did you mean plan\?', "staticfire plam")
case("usage: no verb", USAGE, r"Usage: staticfire VERB", "staticfire")
case("usage: misspelt option", USAGE, r"unknown option --outputs; did you mean --output\?",
     "staticfire plan scenario.yaml --outputs out.plan")
case("usage: value for a flag", USAGE, r"option --explain takes no value",
     "staticfire plan scenario.yaml --explain=yes")
case("usage: word for a count", USAGE, r'--top expects a whole number from 1 to \d+, found "few"',
     "staticfire plan scenario.yaml --top few -o out.plan")
case("usage: top over its limit", USAGE, r"--top expects at most 1000, found 1001",
     "staticfire plan scenario.yaml --top 1001 -o out.plan")
case("usage: steps of nothing", USAGE, r'--steps expects a whole number from 1 to \d+, found "0"',
     "staticfire run p.sfprog --steps 0")
case("usage: negative seed", USAGE, r'--seed expects a whole number from 0 to \d+, found "-1"',
     "staticfire sim plan.yaml --seed -1")
case("usage: tolerance without sense", USAGE, r'--tolerance expects a share such as 10%.*found "much"',
     "staticfire compare forecast.json run.sftrace --tolerance much")
case("usage: a size that is none", USAGE, r'--bytes: expected a size with its unit.*found "nanB"; see staticfire coll',
     "staticfire coll fabric.yaml --bytes nanB")
case("usage: the end of a range of sizes", USAGE, r'--bytes: expected a size with its unit.*found "x"',
     "staticfire coll fabric.yaml --bytes 1MiB..x")
case("usage: a time that is none", USAGE, r'--forward: expected a time.*found "1x".*see staticfire net',
     "staticfire net pipeline fabric.yaml --endpoints 8 --stages 2 --forward 1x")
case("usage: both and unfolded", USAGE, r"--both already simulates unfolded",
     "staticfire sim plan.yaml --both --unfolded")
case("usage: trace-ranks without a trace", USAGE, r"--trace-ranks changes nothing without --trace",
     "staticfire sim plan.yaml --trace-ranks 1")
case("usage: sim of a program without a cluster", USAGE,
     r"p.sfprog is a program, which holds no speeds; name the cluster with --cluster",
     "staticfire sim p.sfprog --trace out.sftrace")
case("usage: unknown transport", USAGE, r'--transport expects threads or mpi, found "pigeon"',
     "staticfire run p.sfprog --transport pigeon")
case("usage: unknown topo action", USAGE, r'expected show, check or probe, found "draw"',
     "staticfire topo draw cluster.yaml --svg out.svg")
case("usage: route of one GPU", USAGE, r'--route expects two GPUs like 0:73, found "3"',
     "staticfire topo show fabric.yaml --route 3")
case("usage: route out of the cluster", USAGE, r"--route 0:32: the GPUs of four-nodes are 0 to 31",
     "staticfire topo show fabric.yaml --route 0:32")
case("usage: unknown routing", USAGE, r'--routing expects adaptive, ecmp, rail-local or pxn, found "ospf"',
     "staticfire topo show fabric.yaml --routing ospf")
case("usage: routing in one domain", USAGE, r"one domain and no fabric",
     "staticfire topo show cluster.yaml --routing pxn")
case("usage: seed without ecmp", USAGE, r"--seed changes nothing without --routing ecmp",
     "staticfire topo show fabric.yaml --seed 3")
case("usage: probe with a file", USAGE, r"topo probe reads no file", "staticfire topo probe cluster.yaml")
case("usage: unknown prog action", USAGE, r'expected dump, check, hash or asm, found "link"',
     "staticfire prog link p.sfprog")
case("usage: asm without an output", USAGE, r"prog asm needs -o FILE", "staticfire prog asm p.txt")
case("usage: check with an output", USAGE, r"prog check writes no file", "staticfire prog check p.sfprog -o out.txt")
case("usage: unknown trace action", USAGE, r'expected dump or info, found "plot"', "staticfire trace plot run.sftrace")
case("usage: info with an output", USAGE, r"-o writes the text of trace dump",
     "staticfire trace info run.sftrace -o out.txt")
case("usage: runtime without a program", USAGE, r"no program named", "staticfire-run")
case("usage: runtime, unknown option", USAGE, r'unknown option --wibble: see staticfire-run --help',
     "staticfire-run p.sfprog --wibble")
case("usage: runtime, option without its value", USAGE, r"a value is missing behind --data",
     "staticfire-run p.sfprog --data")
case("usage: runtime, two programs", USAGE, r'one program expected, also found "p.sfprog"',
     "staticfire-run p.sfprog p.sfprog")
case("usage: runtime, no steps", USAGE, r"--steps 0: expected a number from 1",
     "staticfire-run p.sfprog --data text.txt --steps 0")
case("usage: runtime, a trace too long", USAGE, r"1000000 steps of \d+ ops are more than .*: trace fewer steps",
     "staticfire-run wide.sfprog --data text.txt --steps 1000000 --trace out.sftrace")
case("usage: runtime, stall without a unit", USAGE, r"--stall 30: expected",
     "staticfire-run p.sfprog --data text.txt --stall 30")
case("usage: runtime, unknown transport", USAGE, r"--transport pigeon: expected threads or mpi",
     "staticfire-run p.sfprog --transport pigeon")
case("usage: runtime, measure without an output", USAGE, r"--measure needs -o FILE",
     "staticfire-run --measure p.sfprog")
case("usage: runtime, measure and train", USAGE, r"--measure takes no other options",
     "staticfire-run --measure p.sfprog -o out.yaml --steps 3")

for verb in ("plan scenario.yaml", "sim scenario.yaml", "compile scenario.yaml -o out.sfprog", "run scenario.yaml"):
    case(f"json: {verb}", INPUT, r"scenario.yaml:5:12: expected", f"staticfire {verb} --json", stdout='"line": 5',
         scenario_yaml=edit(S, ("16", "sixteen")))

# ---- where to write ------------------------------------------------------------------------------------------------

for verb, command in (("plan", "plan scenario.yaml -o"), ("compile", "compile plan.yaml -o"),
                      ("sim --trace", "sim plan.yaml --trace"),
                      ("sim --forecast", "sim plan.yaml --forecast"), ("prog asm", "prog asm p.txt -o"), ("prog dump",
                       "prog dump p.sfprog -o"),
                      ("trace dump", "trace dump run.sftrace -o"), ("topo", "topo show cluster.yaml --svg"),
                      ("compare", "compare forecast.json run.sftrace --tolerance 10 --report"), ("run",
                       "run plan.yaml -o")):
    case(f"output: {verb} into a missing folder", IO, r"nowhere/file.*No such file",
         f"staticfire {command} nowhere/file")
for verb, command in (("plan", "staticfire plan scenario.yaml -o"), ("compile", "staticfire compile plan.yaml -o"),
                      ("sim", "staticfire sim plan.yaml --trace"), ("prog asm", "staticfire prog asm p.txt -o"),
                      ("topo", "staticfire topo show cluster.yaml --svg"),
                      ("trace dump", "staticfire trace dump run.sftrace -o")):
    case(f"output: {verb} over a folder", IO, r"folder: .*(directory|folder)", f"{command} folder", folder=DIR)
    case(f"output: {verb} where nobody may write", IO, r"sealed/file: .*(Permission|permitted|Read-only|No such)",
         f"{command} {'/sys/sealed' if AS_ROOT else 'sealed'}/file".replace("/sys/sealed", "/proc/sealed"), sealed=DIR)
case("output: probe into a missing folder", IO, r"nowhere/deep: .*No such file",
     "staticfire topo probe -o nowhere/deep")
case("output: runtime, trace into a missing folder", IO, r"nowhere/file: .*No such file",
     "staticfire-run p.sfprog --data text.txt --steps 1 --trace nowhere/file")
case("output: runtime, dump into a missing folder", IO, r"nowhere/file: .*No such file",
     "staticfire-run p.sfprog --data text.txt --steps 1 --dump nowhere/file --log out.log")
case("output: run, trace into a missing folder", IO, r"nowhere/file: .*No such file",
     "staticfire run plan.yaml --steps 1 -o out.sfprog --trace nowhere/file")
case("output: log of a run that cannot start", INPUT, r"text.txt: the text has 4 bytes",
     "staticfire-run p.sfprog --data text.txt --steps 1 --log out.log", text_txt=raw("four"))
for verb in ("staticfire plan scenario.yaml -o", "staticfire sim plan.yaml --trace", "staticfire prog asm p.txt -o",
             "staticfire topo show cluster.yaml --svg",
                 "staticfire-run p.sfprog --data text.txt --steps 1 --quiet --trace"):
    case(f"output: a device that is full, {verb}", IO, r"(/dev/full|/dev): .*(No space left|Permission denied)",
         verb + " /dev/full")
case("output: standard output that is full", IO, r"standard output",
     ["sh", "-c", "$0 doctor > /dev/full", "staticfire"])
case("output: runtime, log into a missing folder", IO, r"nowhere/file: .*No such file",
     "staticfire-run p.sfprog --data text.txt --steps 1 --log nowhere/file --trace out.sftrace")
case("output: runtime, table into a missing folder", IO, r"nowhere/file: .*No such file",
     "staticfire-run --measure p.sfprog --data text.txt -o nowhere/file")
case("input: unreadable", IO, r"(sealed.yaml|/proc/self/mem): .*(Permission denied|cannot|error)",
     "staticfire plan " + ("/proc/self/mem" if AS_ROOT else "sealed.yaml") + " -o out.plan",
                           sealed_yaml=raw("name: x\n"))

# ---- several processes ---------------------------------------------------------------------------------------------

MPI = "mpirun --oversubscribe -n {} staticfire-run p.sfprog --data text.txt --steps 1 --quiet --trace out.sftrace"
case("mpi: three processes for two ranks", USAGE,
     r"the program has 2 ranks but MPI started 3 processes: use mpirun -n 2", MPI.format(3))
case("mpi: log into a missing folder", IO, r"nowhere/file: .*No such file", MPI.format(2) + " --log nowhere/file")
case("mpi: no data", INPUT, r"text.txt: the text has 4 bytes", MPI.format(2), text_txt=raw("four"))
case("mpi: damaged program", INPUT, r"p.sfprog: at byte \d+: .*damaged", MPI.format(2), p_sfprog=flip("p.sfprog", 5000))


# ---- the run -------------------------------------------------------------------------------------------------------

def fill(folder, good, files):
    shutil.copytree(good, folder)
    for name, content in files.items():
        path = folder / name
        if path.is_file():
            path.unlink()
        if content is DIR:
            path.mkdir()
        elif content is not None:
            path.write_bytes(content(good))
    for name in ("sealed", "sealed.yaml"):
        if (folder / name).exists() and not AS_ROOT:
            (folder / name).chmod(0o500 if (folder / name).is_dir() else 0)


def snapshot(folder):
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_ino, p.read_bytes() if p.is_file() and
                                         os.access(p, os.R_OK) else None)
            for p in folder.rglob("*")}


def differences(before, after):
    found = [f"left {n} behind" for n in after.keys() - before.keys()]
    found += [f"removed {n}" for n in before.keys() - after.keys()]
    return found + [f"changed {n}" for n in before.keys() & after.keys() if before[n] != after[n]]


def attempt(folder, command, code, pattern, stdout):
    before = snapshot(folder)
    result = run(command, folder)
    wrong = differences(before, snapshot(folder))
    if result.returncode != code:
        wrong.append(f"exit {result.returncode}, not {code}")
    if not re.search(pattern, result.stderr):
        wrong.append(f"standard error lacks /{pattern}/")
    if stdout not in result.stdout or (not stdout and result.stdout):
        wrong.append(f"standard output: {result.stdout[:200]!r}")
    if code not in (0,
                    TOLERANCE) and command[0] != "mpirun" and result.stderr.count("\n") != 1 and "Usage" not in pattern:
        wrong.append("not one line of complaint")
    return wrong, result.stderr


def outputs(command):
    return [w for w in command if w.startswith("out.") and not w.endswith(".keep")]


def main():
    bad = []
    with tempfile.TemporaryDirectory() as name:
        good = pathlib.Path(name) / "good"
        good.mkdir()
        make_good(good)
        for i, (title, code, pattern, command, stdout, files) in enumerate(CASES):
            folder = pathlib.Path(name) / f"case{i}"
            fill(folder, good, files)
            for old in (True, False) if outputs(command) else (False,):
                for out in outputs(command):
                    (folder / out).unlink(missing_ok=True)
                    if old:
                        (folder / out).write_text("what was here before\n")
                wrong, stderr = attempt(folder, command, code, pattern, stdout)
                if SHOW:
                    print(f"{'BAD' if wrong else 'ok '} {title}\n      {stderr.strip()[:300]}")
                if wrong:
                    wrong, words = "; ".join(wrong), " ".join(command)
                    bad.append(f"{title}: {words}\n    {wrong}\n    {stderr.strip()[:600]}")
                    break
            if not AS_ROOT and (folder / "sealed").exists():
                (folder / "sealed").chmod(0o700)
            shutil.rmtree(folder)
    print("\n".join(bad) or f"{len(CASES)} fixtures, all refused as they should be")
    return bool(bad)


sys.exit(main())
