#!/usr/bin/env python3
"""staticfire calibrate on GPUs, as far as the recording device shows it (its times are made up): rows for every kernel
of the models, provenance, a file that sealed forecasts rest on, the same twice; and what is refused.

usage: test_calibrate_gpu.py BUILD"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(sys.argv[1]).resolve()
MODEL = {"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 4,
         "vocab_size": 32000, "num_attention_heads": 16, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
         "tie_word_embeddings": False}


def run(folder, *words, code=0):
    r = subprocess.run([str(BUILD / words[0]), *map(str, words[1:])], cwd=folder, text=True, capture_output=True,
                       timeout=120)
    if r.returncode != code:
        sys.exit(f"{' '.join(map(str, words))}: expected exit {code}, found {r.returncode}: {r.stdout}{r.stderr}")
    return r.stderr if code else r.stdout


def check(what, holds):
    if not holds:
        sys.exit(f"does not hold: {what}")


def rows(path):
    return [line for line in path.read_text().splitlines() if line.startswith("  - { kind:")]


def calibrated(folder):
    words = ("staticfire", "calibrate", "--backend", "record", "--device", "h200", "--models", 2)
    found = json.loads(run(folder, *words, "-o", "calib.yaml", "--json"))
    kinds = {m["kind"] for m in found["models"]}
    wanted = {"gemm", "attn_fwd", "attn_bwd", "adamw", "rmsnorm_fwd", "layernorm_bwd", "glu_fwd", "bias_fwd", "xent"}
    check(f"a model of every kernel of llama and gpt2: {sorted(kinds)}", wanted <= kinds)
    check("what follows a kernel is known", found["transport"]["dispatch_s"]["value"] > 0)
    text = (folder / "calib.yaml").read_text()
    check("whose times these are", 'device: "the recording device", libraries: "no device"' in text)
    check("the file does not say where it was made", str(folder) not in text and "/tmp" not in text)
    run(folder, *words, "-o", "again.yaml")
    check("the same times twice", rows(folder / "calib.yaml") == rows(folder / "again.yaml"))


def measured(folder, name, gpus, plan):
    scenario = {"name": name, "cluster": str(ROOT / "scenarios/clusters/hgx-h200-1node.yaml"), "model": "config.json",
                "plan": {"pp": 1, "dp": 1, "tp": 1, "whole_rows": False, "micro_batch": 2} | plan,
                "job": {"seq_len": 1024, "global_batch": 4, "precision": "bf16", "gpus": gpus, "steps": 4, "seed": 1,
                        "optimizer": {"kind": "adamw"}}}
    (folder / "config.json").write_text(json.dumps(MODEL))
    (folder / f"{name}.json").write_text(json.dumps(scenario))
    run(folder, "staticfire", "plan", f"{name}.json", "-o", f"{name}.yaml")
    run(folder, "staticfire", "compile", f"{name}.yaml", "-o", f"{name}.sfprog")
    run(folder, "staticfire-run", "--measure", f"{name}.sfprog", "--backend", "record", "-o", f"{name}.k.yaml")
    return folder / f"{name}.k.yaml"


def tables(folder):
    """A program's own table; over two ranks what talking costs, too."""
    one = measured(folder, "one", 1, {})
    check("every product once", len(rows(one)) == len(set(rows(one))) and sum("gemm" in r for r in rows(one)) >= 12)
    check("a time of nothing", not re.search(r"time: 0\.000us", one.read_text()))
    both = measured(folder, "both", 2, {"tp": 2}).read_text()
    check("latency and rate between two", "message_rate" in both and "collective_latency" in both)
    check("collectives inside recipes are no rows", not re.search(r"kind: (all_|reduce_)", both))


def forecast(folder):
    """Sealed, and another one than the catalog's."""
    bare = json.loads(run(folder, "staticfire", "sim", "one.yaml", "--json"))
    known = json.loads(run(folder, "staticfire", "sim", "one.yaml", "--kernels", "one.k.yaml", "--json"))
    fitted = json.loads(run(folder, "staticfire", "sim", "one.yaml", "--kernels", "calib.yaml", "--json"))
    check("what was measured changes the forecast", len({r["step_time_s"] for r in (bare, known, fitted)}) == 3)
    calls = sum(float(re.search(r"time: ([0-9.]+)us", r).group(1)) for r in rows(folder / "one.k.yaml")) * 1e-6
    check(f"it rests on the rows: {known['step_time_s']} s, all rows once {calls} s", known["step_time_s"] > calls)
    run(folder, "staticfire", "sim", "one.yaml", "--kernels", "calib.yaml", "--forecast", "sealed.json")
    sealed = json.loads((folder / "sealed.json").read_text())
    check("a seal", len(sealed["seal"]) > 20 and abs(sealed["step_time_ps"] * 1e-12 / fitted["step_time_s"] - 1) < 1e-6)


def estimates(folder):
    run(folder, "staticfire-run", "both.sfprog", "--backend", "record", "--data", ROOT / "scenarios/data/shakespeare.txt",
        "--steps", 1, "--estimates", "est.json")
    inside = json.loads((folder / "est.json").read_text())["inside_recipes"]
    check("collectives of tensor parallelism are asked for", {"all_gather", "reduce_scatter"} <= {e["kind"] for e in inside})
    check("each with its place", all(e["communicator"] == "tp" and e["bytes"] > 0 and e["seconds"] is None for e in inside))


def refused(folder):
    calibrate = lambda *words, code: run(folder, "staticfire", "calibrate", *words, code=code)
    check("no class", "name one of" in calibrate("--backend", "record", code=3))
    check("no such backend", "cpu, cuda or record" in calibrate("--backend", "gpu", code=2))
    check("no such class", "nothing" in calibrate("--backend", "record", "--device", "nothing", code=3))
    check("a class of cores", "--device" in calibrate("--backend", "cpu", "--device", "h200", code=2))
    check("files are not measured", "--from" in calibrate("--from", "calib.yaml", "--backend", "record", code=2))
    other = (folder / "one.k.yaml").read_text().replace("the recording device", "another")
    (folder / "other.yaml").write_text(other)
    found = calibrate("--from", "one.k.yaml", "other.yaml", code=3)
    check(f"two devices in one file: {found}", re.search(r"other.yaml:3:\d+.*times of the recording device.*another", found))
    run_ = lambda *words: run(folder, "staticfire-run", *words, code=2)
    check("no program to describe", "--describe" in run_("--describe", "--backend", "record", "one.sfprog"))
    check("cores need no description", "--describe" in run_("--describe"))
    check("estimates and times", "--estimates" in run_("--measure", "one.sfprog", "--backend", "record", "-o", "x",
                                                       "--estimates", "y"))


def modules(folder):
    """Another module in the place of CUDA's: its name is no class of the catalog, and its clock stands still."""
    module, mpirun = BUILD / "tests/cuda/runtime/libfake_gpu.so", shutil.which("mpirun")
    if not module.exists():
        return
    os.environ |= {"SF_CUDA_MODULE": str(module), "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    found = run(folder, "staticfire", "calibrate", "--backend", "cuda", code=3)
    check(f"no class of this name: {found}", 'known to be "a fake GPU"' in found)
    words = ["--measure", "both.sfprog", "--backend", "cuda", "--no-cache", "-o", "still.yaml"]
    if mpirun:
        r = subprocess.run([mpirun, "-n", "2", "--oversubscribe", str(BUILD / "staticfire-run"), *words], cwd=folder,
                           text=True, capture_output=True, timeout=120)
        check(f"two processes: {r.stderr}", r.returncode == 6 and "took no time" in r.stderr)
        check("nothing is written", not (folder / "still.yaml").exists())


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for part in (calibrated, tables, forecast, estimates, refused, modules):
            part(folder)
    print("GPU calibration on the recording device: rows, provenance, sealed forecasts, refusals")


main()
