#!/usr/bin/env python3
"""Executed order = program, and the same bits everywhere: pp 1-4 x dp 1-2 x every schedule, threads and MPI.

Every layout trains the same small model for three steps. Loss, gradients and parameters must have the same bytes in all
of them, and every rank's trace must show the program's ops in the program's order.

Tensor parallelism and slices of sequences sum in another order: every layout of one degree, or number of slices, has
the same bytes as all others of it, and after the three steps, which make differences grow, is within TP_TOLERANCE of
degree 1, or whole sequences (relative, per tensor).
"""
import array
import json
import math
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
SEQ, BATCH, LAYERS, STEPS = 16, 24, 8, 3
TP_TOLERANCE = 1e-3

MODEL = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": LAYERS,
         "vocab_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10000.0,
         "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": False, "initializer_range": 0.05}


def run(*command, allowed=(0,)):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=ROOT)
    if result.returncode not in allowed:
        sys.exit(f"{' '.join(map(str, command))}\nexit {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def tensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    body = data[8 + size:]
    return {k: body[v["data_offsets"][0]:v["data_offsets"][1]] for k, v in header.items() if k != "__metadata__"}


def compile_layout(folder, model, pins, pp, dp, schedule, vpp, table):
    if table:
        (folder / schedule).write_text(table)
    pins = dict(pins)
    job = pins.pop("job", {})
    ranks = pp * dp * pins.get("tp", 1)
    scenario = {
        "name": "layouts", "cluster": "machine.yaml", "model": "config.json",
        "plan": {"pp": pp, "dp": dp, "schedule": schedule, "vpp": vpp, "micro_batch": 1, "tp": 1, "whole_rows": False,
                 "slices": 1, "split_head": False} | pins,
        "job": {"seq_len": SEQ, "global_batch": BATCH, "precision": "f32", "gpus": ranks, "steps": STEPS, "seed": 5,
                "canonical": True, "data": str(ROOT / "scenarios/data/shakespeare.txt"),
                "optimizer": {"kind": "adamw", "lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
                              "weight_decay": 0.1, "warmup_steps": 1}} | job,
    }
    (folder / "config.json").write_text(json.dumps(model))
    (folder / "scenario.yaml").write_text(json.dumps(scenario))
    run(BUILD / "staticfire", "topo", "probe", "-o", folder, "--ranks", ranks)
    run(BUILD / "staticfire", "plan", folder / "scenario.yaml", "-o", folder / "plan.yaml")
    run(BUILD / "staticfire", "compile", folder / "plan.yaml", "-o", folder / "p.sfprog")
    run(BUILD / "staticfire", "sim", folder / "plan.yaml", "--trace", folder / "sim.sftrace", "--unfolded",
        "--trace-ranks", ranks)


def train(folder, transport):
    trace, dump = folder / f"{transport}.sftrace", folder / f"{transport}.safetensors"
    run(BUILD / "staticfire", "run", folder / "p.sfprog", "--transport", transport, "--steps", STEPS, "--data",
        ROOT / "scenarios/data/shakespeare.txt", "--trace", trace, "--dump", dump, "--quiet")
    report = json.loads(run(BUILD / "staticfire", "compare", folder / "sim.sftrace", trace, "--program",
                            folder / "p.sfprog", "--json", allowed=(0, 5)))  # 5: these rates are guesses
    return tensors(dump), report


SINGLE = ("gpipe", "1f1b", "zb-h1", "zb-h2", "zb-1p", "zb-2p")
FOLDED = ("zb-v", "v-half", "v-min", "1f1b-v", "dualpipev")


def late_weights(pp, microbatches):
    """1F1B with all weight gradients at the end, in an order that no family has. Canonical sums add runs of an odd
    length (24 = 8 runs of 3, 12 = 4 of 3) in order, but the runs may come in any."""
    rows = []
    for d in range(pp):
        warm = min(pp - 1 - d, microbatches)
        row = [f"{d}F{i}" for i in range(warm)]
        for i in range(microbatches):
            row += [f"{d}F{warm + i}"] * (warm + i < microbatches) + [f"{d}I{i}"]
        order = [3 * run + i for run in reversed(range(microbatches // 3)) for i in range(3)]
        rows.append(",".join(row + [f"{d}W{i}" for i in order]))
    return "\n".join(rows) + "\n"


layouts = [(pp, dp, schedule, 1, None) for schedule in SINGLE[:2] for pp in (1, 2, 3, 4) for dp in (1, 2)]
# Of the others every second one, alternating from schedule to schedule.
layouts += [(pp, dp, schedule, 1, None) for i, schedule in enumerate(SINGLE[2:]) for pp in (2, 3, 4) for dp in (1, 2)
            if (i + pp + dp) % 2]
layouts += [(pp, dp, schedule, 2, None) for i, schedule in enumerate(("interleaved", "breadth-first") + FOLDED)
            for pp in (2, 3, 4) for dp in (1, 2) if (i + pp + dp) % 2]
layouts += [(pp, dp, "dualpipe", 1, None) for pp in (2, 4) for dp in (1, 2)]
layouts += [(pp, dp, "late.csv", 1, late_weights(pp, BATCH // dp)) for pp in (1, 3) for dp in (1, 2)]
# The same, with the things that split backwards and folded pipelines must get right besides: layers that are computed
# again, a table whose ends are on one rank or on two, optimizer shards.
HARD = {"recompute": "full", "zero": 1}
hard = [(1, 1, "1f1b", 1, None), (4, 2, "zb-h1", 1, None), (2, 2, "zb-2p", 1, None), (3, 2, "zb-v", 2, None),
        (4, 1, "v-min", 2, None), (2, 1, "dualpipe", 1, None), (4, 2, "dualpipe", 1, None), (2, 2, "dualpipev", 2, None),
        (2, 2, "interleaved", 2, None), (3, 1, "late.csv", 1, late_weights(3, BATCH))]
tp = [(1, 1, "1f1b", 1, None), (2, 2, "1f1b", 1, None), (2, 1, "zb-h2", 1, None), (2, 1, "v-half", 2, None),
      (1, 2, "gpipe", 1, None)]
WIDE = {"num_key_value_heads": 4}
# Layer norms, biases and learned positions; a padded vocabulary, and logits a part at a time, the last one smaller.
GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 24, "vocab_size": 200,
        "attn_pdrop": 0, "embd_pdrop": 0, "resid_pdrop": 0, "initializer_range": 0.05}
QWEN2 = MODEL | {"model_type": "qwen2"}
PARTS = {"job": {"loss_rows": 6}}
PADDED = {"job": {"loss_rows": 6, "vocab_multiple": 64}}
vectors = [(1, 1, "1f1b", 1, None), (3, 2, "1f1b", 1, None), (2, 2, "zb-h1", 1, None), (4, 1, "zb-v", 2, None),
           (2, 2, "interleaved", 2, None), (2, 1, "dualpipe", 1, None)]
sliced = [(1, 1, "1f1b", 1, None), (3, 2, "1f1b", 1, None), (4, 1, "gpipe", 1, None), (2, 2, "gpipe", 1, None)]
# Statistics of a row's softmax come from as many parts as there are stages: bits are those of a pp.
parts_2, parts_4 = [(2, dp, "1f1b", 1, None) for dp in (1, 2)], [(4, dp, "1f1b", 1, None) for dp in (1, 2)]
groups = [(MODEL, {}, layouts), (MODEL | {"tie_word_embeddings": True}, HARD, hard),
          (MODEL, {"tp": 2}, tp), (MODEL, {"tp": 2, "whole_rows": True}, tp[:3]),
          (MODEL | {"tie_word_embeddings": True}, HARD | {"tp": 2}, [(1, 1, "1f1b", 1, None), (2, 2, "dualpipe", 1, None)]),
          (MODEL | WIDE, {}, tp[:1]), (MODEL | WIDE, {"tp": 4}, tp[:1]),
          (GPT2, PADDED, vectors), (GPT2, PADDED | HARD, vectors[::-1]), (QWEN2, PARTS, vectors[:4]),
          (QWEN2, PARTS | {"tp": 2}, tp[:4]), (QWEN2, PARTS | {"tp": 2, "whole_rows": True}, tp[:2]),
          (MODEL, {"slices": 4}, sliced), (MODEL, {"slices": 8, "job": {"loss_rows": 1}}, sliced[:2]),
          (MODEL | {"tie_word_embeddings": True}, HARD | {"slices": 2}, sliced), (MODEL, {"slices": 2, "tp": 2}, sliced[:2]),
          (MODEL, {"split_head": True}, parts_2), (MODEL, {"split_head": True}, parts_4),
          (MODEL, {"split_head": True, "recompute": "full", "zero": 1}, parts_2[1:])]


def check(folder, what, transport, reference, bad):
    got, report = train(folder, transport)
    reference = reference or got
    if got.keys() != reference.keys():
        bad.append(f"{what}: other tensors")
    else:
        bad += [f"{what}: {k} differs" for k in got if got[k] != reference[k]][:3]
    order, missing = report["order"], report["unpredicted_records"] + report["unmeasured_records"]
    if order["violations"] or order["missing_ops"] or missing or not order["checked"]:
        bad.append(f"{what}: {order}, {missing} records without a partner")
    return reference, order["checked"]


def difference(got, want):
    a, b = array.array("f", got), array.array("f", want)
    return math.dist(a, b) / max(math.hypot(*b), 1e-30)


bad, runs, checked, tensors_n, singles, worst = [], 0, 0, 0, {}, 0.0
for model, pins, members in groups:
    reference = None
    for pp, dp, schedule, vpp, table in members:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            compile_layout(folder, model, pins, pp, dp, schedule, vpp, table)
            over_mpi = schedule in SINGLE[:2] or (pp, dp) in ((2, 2), (3, 1), (4, 1))
            for transport in ("threads", "mpi") if over_mpi else ("threads",):
                what = f"{schedule} pp={pp} dp={dp} vpp={vpp} {pins or ''} {transport}"
                reference, n = check(folder, what, transport, reference, bad)
                runs, checked, tensors_n = runs + 1, checked + n, len(reference)
    single = singles.setdefault(json.dumps(model), reference)  # degree 1 comes first
    far = {k: difference(reference[k], single[k]) for k in single}
    worst = max([worst, *far.values()])
    bad += [f"{pins}: {k} differs from tp=1 by {far[k]:.1e}" for k in far if far[k] > TP_TOLERANCE][:3]
print("\n".join(bad) or f"{runs} runs over {sum(len(g[2]) for g in groups)} layouts: {tensors_n} tensors bit-identical, "
      f"within {worst:.0e} over tp, {checked:,} orderings as programmed")
sys.exit(bool(bad))
