#!/usr/bin/env python3
"""Executed order = program, and the same bits everywhere: pp 1-4 x dp 1-2 x three schedules, threads and MPI.

Every layout trains the same small model for three steps. Loss, gradients and parameters must have the same bytes in all
of them, and every rank's trace must show the program's ops in the program's order.
"""
import json
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


def compile_layout(folder, pp, dp, schedule, vpp):
    scenario = {
        "name": "layouts", "cluster": "machine.yaml", "model": "config.json",
        "plan": {"pp": pp, "dp": dp, "schedule": schedule, "vpp": vpp, "micro_batch": 1, "tp": 1},
        "job": {"seq_len": SEQ, "global_batch": BATCH, "precision": "f32", "gpus": pp * dp, "steps": STEPS, "seed": 5,
                "canonical": True, "data": str(ROOT / "scenarios/data/shakespeare.txt"),
                "optimizer": {"kind": "adamw", "lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
                              "weight_decay": 0.1, "warmup_steps": 1}},
    }
    (folder / "config.json").write_text(json.dumps(MODEL))
    (folder / "scenario.yaml").write_text(json.dumps(scenario))
    run(BUILD / "staticfire", "topo", "probe", "-o", folder, "--ranks", pp * dp)
    run(BUILD / "staticfire", "plan", folder / "scenario.yaml", "-o", folder / "plan.yaml")
    run(BUILD / "staticfire", "compile", folder / "plan.yaml", "-o", folder / "p.sfprog")
    run(BUILD / "staticfire", "sim", folder / "plan.yaml", "--trace", folder / "sim.sftrace", "--unfolded",
        "--trace-ranks", pp * dp)


def train(folder, transport):
    trace, dump = folder / f"{transport}.sftrace", folder / f"{transport}.safetensors"
    run(BUILD / "staticfire", "run", folder / "p.sfprog", "--transport", transport, "--steps", STEPS, "--data",
        ROOT / "scenarios/data/shakespeare.txt", "--trace", trace, "--dump", dump, "--quiet")
    report = json.loads(run(BUILD / "staticfire", "compare", folder / "sim.sftrace", trace, "--program",
                            folder / "p.sfprog", "--json", allowed=(0, 5)))  # 5: these rates are guesses
    return tensors(dump), report


layouts = [(pp, dp, schedule, 1) for schedule in ("gpipe", "1f1b") for pp in (1, 2, 3, 4) for dp in (1, 2)]
layouts += [(pp, dp, "interleaved", 2) for pp in (2, 3, 4) for dp in (1, 2)]
reference, bad, runs, checked = None, [], 0, 0
for pp, dp, schedule, vpp in layouts:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        compile_layout(folder, pp, dp, schedule, vpp)
        for transport in ("threads", "mpi"):
            what = f"{schedule} pp={pp} dp={dp} vpp={vpp} {transport}"
            got, report = train(folder, transport)
            runs += 1
            reference = reference or got
            if got.keys() != reference.keys():
                bad.append(f"{what}: other tensors")
            else:
                bad += [f"{what}: {k} differs" for k in got if got[k] != reference[k]][:3]
            order, missing = report["order"], report["unpredicted_records"] + report["unmeasured_records"]
            if order["violations"] or order["missing_ops"] or missing or not order["checked"]:
                bad.append(f"{what}: {order}, {missing} records without a partner")
            checked += order["checked"]
print("\n".join(bad) or f"{runs} runs over {len(layouts)} layouts: {len(reference)} tensors bit-identical, "
      f"{checked:,} orderings as programmed")
sys.exit(bool(bad))
