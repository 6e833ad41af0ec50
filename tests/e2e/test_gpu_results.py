#!/usr/bin/env python3
"""What comes back from a run on a device, as far as the recording device shows it: it claims no time; its trace is an
order and no measurement; a library's estimates stand beside forecast and measurement, and bad ones are refused with
their place; traces that ranks wrote for themselves are joined; an interrupted run says that it dumps nothing."""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
MODEL = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "vocab_size": 256,
         "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "tie_word_embeddings": False}
CLUSTER = """name: cores
device: cpu-core
domains: 1
domain: { kind: host, trays: 1, gpus_per_tray: 4, cpus_per_tray: 1, nvswitches: 0, link: shm, links_per_gpu: 1 }
"""
SCENARIO = {"name": "device", "cluster": "cluster.yaml", "model": "config.json",
            "plan": {"pp": 2, "dp": 2, "tp": 1, "micro_batch": 1, "schedule": "1f1b", "zero": 0},
            "job": {"seq_len": 32, "global_batch": 8, "precision": "f32", "gpus": 4, "steps": 4, "seed": 1,
                    "optimizer": {"kind": "adamw", "clip_norm": 0.5}}}


def run(folder, *words, code=0):
    """`code` 5 stands for any verdict: times of a busy machine are not at issue."""
    command = [str(BUILD / words[0]), *map(str, words[1:])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120)
    if done.returncode != code and (code, done.returncode) != (5, 0):
        sys.exit(f"{' '.join(command)}\nexit {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout if code in (0, 5) else done.stderr


def check(what, holds):
    if not holds:
        sys.exit(f"does not hold: {what}")


def prepare(folder):
    (folder / "config.json").write_text(json.dumps(MODEL))
    (folder / "cluster.yaml").write_text(CLUSTER)
    (folder / "scenario.yaml").write_text(json.dumps(SCENARIO))
    (folder / "text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 50)
    run(folder, "staticfire", "plan", "scenario.yaml", "-o", "plan.yaml")
    run(folder, "staticfire", "compile", "plan.yaml", "-o", "p.sfprog")
    run(folder, "staticfire", "sim", "plan.yaml", "--unfolded", "--trace", "sim.sftrace")


TRAIN = ("staticfire-run", "p.sfprog", "--data", "text.txt", "--steps", 4)


def recorded(folder):
    line = run(folder, *TRAIN, "--backend", "record", "--trace", "rec.sftrace", "--estimates", "est.json").splitlines()[0]
    check("a line without times", "loss" in line and "norm" in line and "tokens/s" not in line and "cpu" not in line)
    found = json.loads(run(folder, *TRAIN, "--backend", "record", "--json"))
    check("no time is claimed", found["tokens_per_s"] is None and set(found["step_time_s"] + found["cpu_s"]) == {None})
    cpu = json.loads(run(folder, *TRAIN, "--trace", "cpu.sftrace", "--json"))
    check("the same losses and norms as on CPU", (found["loss"], found["grad_norm"]) == (cpu["loss"], cpu["grad_norm"]))


def compare(folder, measured, *more, code=0):
    return run(folder, "staticfire", "compare", "sim.sftrace", measured, "--program", "p.sfprog", *more, code=code)


def order_only(folder):
    check("no measurement", "order but no times" in compare(folder, "rec.sftrace", code=3))
    found = json.loads(compare(folder, "rec.sftrace", "--order-only", "--json"))
    check("in order", found["verdict"] == "in order" and found["order"]["checked"] > 100 and found["step_error"] is None)


def estimates(folder):
    file = json.loads((folder / "est.json").read_text())
    ops = file["collectives"]
    check("every collective of rank 0, without a time", ops and all(o["rank"] == 0 and o["seconds"] is None for o in ops))
    for o in ops:
        o["seconds"] = 1e-3
    (folder / "known.json").write_text(json.dumps(file))
    kind = ops[0]["kind"]
    options = ("--estimates", "known.json")
    found = json.loads(compare(folder, "cpu.sftrace", *options, "--json", code=5))["per_kind"][kind]["estimate"]
    n = sum(o["kind"] == kind for o in ops)
    check("three columns of the same ops", found["count"] == n and abs(found["estimated_s"] - n * 1e-3) < 1e-9
          and found["predicted_s"] > 0 and found["measured_s"] > 0)
    check("a table", "estimated" in compare(folder, "cpu.sftrace", *options, code=5))
    bad = {"expected the JSON": "{", "expected an object of program": "{}",
           "are of program": json.dumps(file | {"program": "0" * 32}),
           "entry 0 of \"collectives\": expected \"op\"": json.dumps(file | {"collectives": [ops[0] | {"op": -1}]}),
           "entry 1 of \"collectives\": expected an object": json.dumps(file | {"collectives": [ops[0], 3]}),
           "expected a collective": json.dumps(file | {"collectives": [ops[0] | {"op": 0}]}),
           f"of {ops[0]['bytes']} bytes": json.dumps(file | {"collectives": [ops[0] | {"bytes": 4}]}),
           "number from 0 to 1e6": json.dumps(file | {"collectives": [ops[0] | {"seconds": -1}]}),
           "estimated twice": json.dumps(file | {"collectives": [ops[0], ops[0]]})}
    for wanted, text in bad.items():
        (folder / "bad.json").write_text(text)
        said = compare(folder, "cpu.sftrace", "--estimates", "bad.json", code=3)
        check(f"{wanted}: {said.strip()}", wanted in said and "bad.json" in said)


def parts(folder):
    """A whole trace under the names that ranks give their parts: the first part alone would be missing three ranks."""
    whole = (folder / "cpu.sftrace").read_bytes()
    (folder / "torch.sftrace.rank0").write_bytes(whole)
    said = compare(folder, "torch.sftrace", code=8)
    check("the part of rank 1 is missed by name", "torch.sftrace.rank1" in said)


def interrupted(folder):
    command = [str(BUILD / "staticfire-run"), "p.sfprog", "--data", "text.txt", "--steps", "100000", "--dump", "d.dump"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    check("says that nothing was dumped", process.returncode == 7 and "d.dump is not written" in errors)
    check("and writes nothing", not os.path.exists(folder / "d.dump"))


with tempfile.TemporaryDirectory() as name:
    at = pathlib.Path(name)
    prepare(at)
    for part in (recorded, order_only, estimates, parts, interrupted):
        part(at)
        print(f"{part.__name__}: holds")
