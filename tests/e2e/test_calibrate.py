#!/usr/bin/env python3
"""staticfire calibrate: measures this machine, writes a file that forecasts rest on, reads what others measured, and says
where a file is wrong.

usage: test_calibrate.py BUILD"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
bad = []


def check(ok, message):
    if not ok:
        bad.append(message)


def run(folder, *arguments, code=0):
    r = subprocess.run([str(BUILD / "staticfire"), *map(str, arguments)], cwd=folder, text=True, capture_output=True)
    check(r.returncode == code, f"{arguments}: expected exit {code}, found {r.returncode}: {r.stderr[:300]}")
    return r


def measured(folder):
    """This machine, two small models: parameters with intervals, no place or user of this machine in the file."""
    found = json.loads(run(folder, "calibrate", "--models", "2", "-o", "calib.yaml", "--json").stdout)
    kinds = {m["kind"]: m for m in found["models"]}
    check({"gemm", "attn_fwd", "attn_bwd", "adamw", "rmsnorm_fwd"} <= kinds.keys(), f"models: {sorted(kinds)}")
    for m in found["models"]:
        for name, p in m["parameters"].items():
            check(p["low"] < p["value"] < p["high"], f"{m['kind']} {name}: {p}")
    check(kinds["gemm"]["p90_error"] < 1, f"products: {kinds['gemm']}")
    check(all(found["transport"][k] for k in ("message_rate", "collective_rate", "dispatch_s")), f"{found['transport']}")
    text = (folder / "calib.yaml").read_text()
    check(str(folder) not in text and "/tmp" not in text, "the file says where it was made")
    check("\ncollectives:\n  - { op: " in text, "two copies trained, but no collective is in the file")
    for wrong in (["--transport", "udp"], ["--models", "13", "--backend", "cpu"], ["--transport", "mpi", "--backend", "record"]):
        run(folder, "calibrate", *wrong, code=2)
    again = [run(folder, "calibrate", "--from", "calib.yaml", "-o", name).stdout for name in ("a.yaml", "b.yaml")]
    check((folder / "a.yaml").read_bytes() == (folder / "b.yaml").read_bytes(), "the same input made two files")
    check(len(again[0]) > 500, "nothing printed")


def forecast(folder):
    """Shapes that nobody measured are forecast from the models; a row that is deleted changes grade and interval."""
    run(folder, "topo", "probe", "-o", ".", "--ranks", "2")
    scenario = ROOT / "scenarios/tiny-llama-cpu/scenario.yaml"
    run(folder, "plan", scenario, "--cluster", "machine.yaml", "-o", "plan.yaml")
    bare = json.loads(run(folder, "sim", "plan.yaml", "--json").stdout)
    models = json.loads(run(folder, "sim", "plan.yaml", "--kernels", "calib.yaml", "--json").stdout)
    check(models["step_time_s"] < bare["step_time_s"], "calibration changed nothing")
    width = {k: r["interval"]["high_s"] / r["step_time_s"] for k, r in (("bare", bare), ("models", models))}
    check(width["models"] != width["bare"], f"calibration does not change the interval: {width}")
    (folder / "job.json").write_text(json.dumps({
        "name": "seen", "cluster": "machine.yaml", "model": str(ROOT / "scenarios/models/tiny-llama/config.json"),
        "plan": {"pp": 2, "dp": 1, "schedule": "1f1b", "vpp": 1, "micro_batch": 1, "tp": 1, "slices": 1,
                 "split_head": False},
        "job": {"seq_len": 256, "global_batch": 4, "precision": "f32", "gpus": 2, "steps": 1, "seed": 1,
                "optimizer": {"kind": "adamw", "lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
                              "weight_decay": 0.1, "warmup_steps": 1}}}))
    run(folder, "plan", "job.json", "-o", "seen.yaml")
    whole = json.loads(run(folder, "sim", "seen.yaml", "--kernels", "calib.yaml", "--json").stdout)
    text = (folder / "calib.yaml").read_text()
    row = re.search(r"^  - \{ kind: gemm, dtype: f32, flags: \[tb\], dims: \[256, 1024, 256, 1\].*\n", text, re.M)
    if not row:
        return check(False, "the row of the up projection is not in the file")
    (folder / "less.yaml").write_text(text.replace(row[0], ""))
    less = json.loads(run(folder, "sim", "seen.yaml", "--kernels", "less.yaml", "--json").stdout)
    check(whole["rests_on"]["grade"] == "calibrated here", f"all rows listed, but graded {whole['rests_on']['grade']}")
    check(less["rests_on"]["grade"] == "extrapolated", f"a row is gone, but graded {less['rests_on']['grade']}")
    check(whole["interval"]["kernels"] != less["interval"]["kernels"], "a row is gone, the interval stayed")


def others(folder):
    (folder / "good.csv").write_text("m,n,k,dtype,tflops\n" + "".join(
        f"{m},4096,{k},bf16,{300 - 20000 / m}\n" for m in (256, 512, 1024, 4096) for k in (512, 4096)))
    found = json.loads(run(folder, "calibrate", "--from", "good.csv", "--json").stdout)
    check(found["models"][0]["rows"] == 8 and found["models"][0]["dtype"] == "bf16", f"{found['models']}")
    for name, text, says in (("short.csv", "m,n,k,dtype\n1,1,1,f32\n", "short.csv:1"),
                             ("none.csv", "m,n,k,dtype,time_us\n1,1,1,f32,-3\n", "none.csv:2"),
                             ("half.csv", "m,n,k,dtype,time_us\n1.5,1,1,f32,3\n", "half.csv:2"),
                             ("odd.yaml", "kernels: [ 7 ]\n", "odd.yaml:1"),
                             ("empty.txt", "# nothing\n", "empty.txt")):
        (folder / name).write_text(text)
        r = run(folder, "calibrate", "--from", name, code=3)
        check(says in r.stderr, f"{name}: expected \"{says}\" in {r.stderr}")
    run(folder, "compile", "plan.yaml", "-o", "t.sfprog")
    subprocess.run([str(BUILD / "staticfire-run"), "t.sfprog", "--data", str(ROOT / "scenarios/data/shakespeare.txt"),
                    "--steps", "4", "--trace", "t.sftrace", "--quiet"], cwd=folder, check=True, capture_output=True)
    found = json.loads(run(folder, "calibrate", "--from", "t.sftrace", "--json").stdout)
    check("message" in [m["kind"] for m in found["models"]], "no message in a trace of two stages")
    run(folder, "sim", "plan.yaml", "--trace", "s.sftrace")
    r = run(folder, "calibrate", "--from", "s.sftrace", "--program", "t.sfprog", code=3)
    check("simulated" in r.stderr, f"a simulated trace was read as measured: {r.stderr}")


with tempfile.TemporaryDirectory() as name:
    here = pathlib.Path(name)
    measured(here)
    forecast(here)
    others(here)
print("\n".join(bad) or "calibrated, forecast and refused as it should be")
sys.exit(bool(bad))
