#!/usr/bin/env python3
"""Forecast the CPU time of training steps of layouts that no calibration has seen, then train them and say how far off.

All forecasts are made and sealed before the first run. Sizes, stages, copies, schedules, microbatches and transports
vary; no model is one that `staticfire calibrate` measures. CPU time, the least of several runs: other work on the machine
stretches clocks, and caches a little.

usage: forecast_unseen.py BUILD [--layouts 30] [--runs 2] [--steps 6] [--calibration calib.yaml] [--models N] [--json F]
                          [--folder F] [--median 3%] [--p90 10%]        exit 5: outside what --median and --p90 allow

With --folder everything stays there, and a second call with the same options goes on where the first was stopped: with
its calibration, its sealed forecasts and the layouts that it had measured."""
import argparse
import hashlib
import json
import math
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "scenarios/data/shakespeare.txt"
os.environ["OMPI_ALLOW_RUN_AS_ROOT"] = os.environ["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"


def share(text):
    return float(text.rstrip("%")) / (100 if text.endswith("%") else 1)


def layouts(n):
    """Different in every respect that a plan can choose; the same list every time. The last two ways share heads."""
    pick = random.Random(20)
    ways = [(2, 1, "1f1b", 1, 1), (1, 2, "1f1b", 1, 1), (2, 1, "gpipe", 1, 1), (2, 1, "interleaved", 2, 1),
            (2, 2, "1f1b", 1, 1), (2, 1, "zb-h1", 1, 1), (4, 1, "1f1b", 1, 1), (2, 1, "zb-v", 2, 1), (1, 1, "1f1b", 1, 1),
            (2, 2, "interleaved", 2, 1), (1, 1, "1f1b", 1, 2), (2, 1, "1f1b", 1, 2)]
    for i in range(n):
        pp, dp, schedule, vpp, tp = ways[i % len(ways)]
        heads = pick.choice((4, 8) if tp > 1 else (2, 4, 5, 8))
        hidden = heads * pick.choice((32, 32, 64))
        yield {"name": f"layout-{i:02}", "pp": pp, "dp": dp, "tp": tp, "schedule": schedule, "vpp": vpp, "heads": heads,
               "kv_heads": heads if heads % 2 else heads // pick.choice((1, 2)), "hidden": hidden,
               "ffn": hidden * pick.choice((2, 3)), "seq": pick.choice((96, 160, 224, 320)),
               "mb": pick.choice((1, 2, 3)), "layers": 4 * pick.choice((1, 2)), "vocab": pick.choice((256, 320)),
               "transport": "mpi" if i % 3 == 2 else "threads"}


class Bench:
    def __init__(self, build, folder, arguments):
        self.build, self.folder, self.arguments = build, folder, arguments

    def sf(self, *words, allowed=(0,), at=None):
        r = subprocess.run([str(self.build / "staticfire"), *map(str, words)], cwd=at or self.folder, text=True,
                           capture_output=True)
        if r.returncode not in allowed:
            sys.exit(f"staticfire {' '.join(map(str, words))}\nexit {r.returncode}\n{r.stderr}")
        return r.stdout

    def calibrate(self, transport):
        """As the layout will talk: what passes between processes takes other code than what passes between threads."""
        if self.arguments.calibration:
            return self.arguments.calibration.resolve()
        name = f"calib-{transport}.yaml"
        if not (self.folder / name).exists():
            self.sf("calibrate", "--backend", "cpu", "--transport", transport, "--models", self.arguments.models, "-o", name)
        return self.folder / name

    def forecast(self, x, calibration):
        """Seals a forecast; returns the hash of its file."""
        at, ranks = self.folder / x["name"], x["pp"] * x["dp"] * x["tp"]
        if (at / "sealed.json").exists():
            sealed = json.loads((at / "sealed.json").read_text())
            x["interval"] = sealed["interval"]
            return sealed["hash"]
        at.mkdir(exist_ok=True)
        model = {"model_type": "llama", "hidden_size": x["hidden"], "intermediate_size": x["ffn"],
                 "num_hidden_layers": x["layers"], "vocab_size": x["vocab"], "num_attention_heads": x["heads"],
                 "num_key_value_heads": x["kv_heads"], "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
                 "hidden_act": "silu", "tie_word_embeddings": False, "initializer_range": 0.02}
        job = {"name": x["name"], "cluster": "machine.yaml", "model": "config.json",
               "plan": {"pp": x["pp"], "dp": x["dp"], "tp": x["tp"], "vpp": x["vpp"], "schedule": x["schedule"],
                        "micro_batch": x["mb"], "slices": 1, "split_head": False, "whole_rows": False},
               "job": {"seq_len": x["seq"], "global_batch": x["mb"] * x["dp"] * 2 * x["pp"], "precision": "f32",
                       "gpus": ranks, "steps": 1, "seed": 3,
                       "optimizer": {"kind": "adamw", "lr": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8,
                                     "weight_decay": 0.1, "warmup_steps": 1}}}
        (at / "config.json").write_text(json.dumps(model))
        (at / "job.json").write_text(json.dumps(job))
        self.sf("topo", "probe", "-o", ".", "--ranks", ranks, at=at)
        self.sf("plan", "job.json", "-o", "plan.yaml", at=at)
        self.sf("compile", "plan.yaml", "-o", "p.sfprog", at=at)
        said = json.loads(self.sf("sim", "plan.yaml", "--kernels", calibration, "--unfolded", "--trace-ranks",
                                  ranks, "--trace", "p.sftrace", "--forecast", "forecast.json", "--json",
                                  at=at))
        x["interval"] = said["interval"]["high_s"] / said["step_time_s"] - 1
        seal = hashlib.sha256((at / "forecast.json").read_bytes()).hexdigest()
        (at / "sealed.json").write_text(json.dumps({"hash": seal, "interval": x["interval"]}))
        return seal

    def measure(self, x, seal):
        at = self.folder / x["name"]
        if (at / "measured.json").exists():
            x |= json.loads((at / "measured.json").read_text())
            return
        least = math.inf
        for run in range(self.arguments.runs):
            self.sf("run", "p.sfprog", "--transport", x["transport"], "--steps", self.arguments.steps, "--data", DATA,
                    "--trace", "m.sftrace", "--quiet", at=at)
            found = json.loads(self.sf("compare", "p.sftrace", "m.sftrace", "--program", "p.sfprog", "--forecast",
                                       "forecast.json", "--json", allowed=(0, 5), at=at))
            least = min(least, found["step_cpu_measured_s"])
        if hashlib.sha256((at / "forecast.json").read_bytes()).hexdigest() != seal:
            sys.exit(f"{x['name']}: the forecast changed after it was sealed")
        predicted = found["step_cpu_predicted_s"]
        result = {"predicted_s": predicted, "measured_s": least, "error": predicted / least - 1}
        (at / "measured.json").write_text(json.dumps(result))
        x |= result


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build", type=pathlib.Path)
    p.add_argument("--layouts", type=int, default=30)
    p.add_argument("--runs", type=int, default=2)
    p.add_argument("--steps", type=int, default=6)
    p.add_argument("--models", type=int, default=12)
    p.add_argument("--calibration", type=pathlib.Path)
    p.add_argument("--json", type=pathlib.Path)
    p.add_argument("--folder", type=pathlib.Path)
    p.add_argument("--median", type=share, default=0.03)
    p.add_argument("--p90", type=share, default=0.10)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as own:
        folder = (a.folder or pathlib.Path(own)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        bench = Bench(a.build.resolve(), folder, a)
        all_of_them = list(layouts(a.layouts))
        calibration = {t: bench.calibrate(t) for t in sorted({x["transport"] for x in all_of_them})}
        seals = [bench.forecast(x, calibration[x["transport"]]) for x in all_of_them]
        print("sealed:", hashlib.sha256("".join(seals).encode()).hexdigest(), f"({len(seals)} forecasts)", flush=True)
        for x, seal in zip(all_of_them, seals):
            bench.measure(x, seal)
            print(f"{x['name']} pp{x['pp']} dp{x['dp']} tp{x['tp']} {x['schedule']:12} {x['transport']:8} hidden {x['hidden']:4} "
                  f"seq {x['mb']} x {x['seq']:4}  forecast {x['predicted_s'] * 1e3:8.2f} ms  measured "
                  f"{x['measured_s'] * 1e3:8.2f} ms  {100 * x['error']:+6.1f} %  (+-{100 * x['interval']:.0f} %)",
                  flush=True)
    sizes = sorted(abs(x["error"]) for x in all_of_them)
    median, p90 = statistics.median(sizes), sizes[min(len(sizes) - 1, math.ceil(0.9 * len(sizes)) - 1)]
    held = sum(abs(math.log1p(x["error"])) <= math.log1p(x["interval"]) for x in all_of_them)
    print(f"{len(sizes)} layouts: median {100 * median:.1f} %, p90 {100 * p90:.1f} %, worst {100 * sizes[-1]:.1f} %; "
          f"{held} inside their 90 % interval")
    if a.json:
        a.json.write_text(json.dumps(all_of_them, indent=1) + "\n")
    sys.exit(0 if median <= a.median and p90 <= a.p90 else 5)


main()
