#!/usr/bin/env python3
"""Fit one framework's numbers on one device class to its calibration rows, and write its file and its line of the index.

usage: fit.py STATICFIRE NAME DEVICE unfused|fused TABLE.csv CASE_ID_OR_SHARE ... [fix:KEY=VALUE ...] [free:KEY ...]
              [about:TEXT] [rolling] [add]

A share such as 0.1:vtrain- takes that part of the table's rows whose case_id begins so, at random with seed 1;
0.1:mpt-@H100 only of those on that GPU. `add` keeps the file's other devices and their calibration rows. Needs numpy and
scipy. Least squares of log(predicted / measured), soft L1."""
import csv
import json
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
from scipy.optimize import least_squares

HERE = os.path.dirname(os.path.abspath(__file__))
KEYS = ("host_call", "step", "pointwise", "loss", "gemm_share", "gemm_share_fp8", "gather_hidden", "moe", "attention_share",
        "tp_hidden", "kernels", "loss_parallel", "gather_slow", "spread", "resume")
START = {"host_call": 40.0, "step": 2.0, "pointwise": 1.5, "loss": 5.0, "gemm_share": 0.95, "gemm_share_fp8": 0.95,
         "gather_hidden": 0.5, "moe": 4.0, "attention_share": 0.8, "tp_hidden": 0.5, "kernels": 1.0,
         "loss_parallel": 5.0, "gather_slow": 5.0, "spread": 0.02, "resume": 0.3}
LOW = {"host_call": 0.0, "step": 0.0, "pointwise": 0.5, "loss": 0.5, "gemm_share": 0.6, "gemm_share_fp8": 0.6,
       "gather_hidden": 0.0, "moe": 0.5, "attention_share": 0.1, "tp_hidden": 0.0, "kernels": 0.0,
       "loss_parallel": 0.5, "gather_slow": 1.0, "spread": 0.0, "resume": 0.0}
HIGH = {"host_call": 300.0, "step": 100.0, "pointwise": 8.0, "loss": 40.0, "gemm_share": 1.2, "gemm_share_fp8": 1.3,
        "gather_hidden": 1.0, "moe": 60.0, "attention_share": 1.6, "tp_hidden": 1.0, "kernels": 20.0,
        "loss_parallel": 80.0, "gather_slow": 100.0, "spread": 0.1, "resume": 2.0}


def device_text(p):
    return (f"{{ host_call: {p['host_call']:.2f}us, step: {p['step']:.3f}ms, pointwise: {p['pointwise']:.3f}, "
            f"loss: {p['loss']:.2f}, gemm_share: {p['gemm_share']:.4f}"
            + (f", gemm_share_fp8: {p['gemm_share_fp8']:.4f}" if p["gemm_share_fp8"] else "")
            + (f", gather_hidden: {p['gather_hidden']:.3f}" if p["gather_hidden"] else "")
            + (f", moe: {p['moe']:.2f}" if p["moe"] else "")
            + (f", attention_share: {p['attention_share']:.3f}" if p["attention_share"] not in (0, 1) else "")
            + (f", tp_hidden: {p['tp_hidden']:.3f}" if p["tp_hidden"] else "")
            + "".join(f", {k}: {p[k]:.{digits}f}" for k, digits in (("kernels", 2), ("loss_parallel", 2),
                                                                    ("gather_slow", 2), ("spread", 4)) if p[k])
            + (f", resume: {p['resume']:.3f}ms" if p["resume"] else "") + " }")


def framework_text(name, about, attention, rolling, ids, devices):
    lines = [f"# Written by fit.py; sim/framework.c says what the keys mean.\nname: {name}\nabout: \"{about}\"\n"
             f"attention: {attention}\n{'rolling: true' + chr(10) if rolling else ''}grade: calibrated\ncalibration: [{', '.join(ids)}]\ndevices:\n"]
    lines += [f"  {d}: {device_text(p)}\n" for d, p in devices.items()]
    return "".join(lines)


def main():
    binary, name, device, attention, table = sys.argv[1:6]
    about, fixed, ids, add = "", {"attention_share": 1.0, "tp_hidden": 0.0, "kernels": 0.0, "loss_parallel": 0.0,
                             "gather_slow": 0.0, "spread": 0.0, "resume": 0.0}, [], False
    rolling = False
    with open(table, newline="") as f:
        reader = csv.DictReader(f)
        columns, rows = reader.fieldnames, list(reader)
    for word in sys.argv[6:]:
        if word.startswith("about:"):
            about = word[6:]
        elif word == "rolling":
            rolling = True
        elif word == "add":
            add = True
        elif word.startswith("free:"):
            del fixed[word[5:]]
        elif word.startswith("fix:"):
            key, value = word[4:].split("=")
            fixed[key] = float(value)
        elif ":" in word:
            share, prefix = word.split(":")
            prefix, _, gpu = prefix.partition("@")
            pool = [r["case_id"] for r in rows if r["case_id"].startswith(prefix) and gpu in ("", r["gpu"])]
            ids += sorted(random.Random(1).sample(pool, round(float(share) * len(pool))))
        else:
            ids.append(word)
    chosen = [r for r in rows if r["case_id"] in ids]
    if not any(r["precision"].lower().startswith("fp8") for r in chosen):
        fixed.setdefault("gemm_share_fp8", 0.0)
    if not any(r["experts"] for r in chosen):
        fixed.setdefault("moe", 0.0)
    free = [k for k in KEYS if k not in fixed]
    with tempfile.TemporaryDirectory() as tmp:
        catalog = os.path.dirname(HERE)
        for part in os.listdir(catalog):
            if part != "frameworks":
                os.symlink(os.path.join(catalog, part), os.path.join(tmp, part))
        os.mkdir(os.path.join(tmp, "frameworks"))
        cases = os.path.join(tmp, "cases.csv")
        with open(cases, "w", newline="") as f:
            w = csv.DictWriter(f, columns)
            w.writeheader()
            w.writerows(chosen)
        with open(os.path.join(tmp, "frameworks", "index.yaml"), "w") as f:
            for source in sorted({r["source_file"] for r in chosen}):
                f.write(f"- {{ source_file: {source}, framework: {name} }}\n")
            with open(os.path.join(HERE, "index.yaml")) as own:  # what rows leave unstated
                f.writelines("- " + e.rstrip() + "\n" for e in own.read().split("\n- ")[1:] if "because:" in e)

        def errors(x):
            p = dict(fixed, **dict(zip(free, x)))
            with open(os.path.join(tmp, "frameworks", name + ".yaml"), "w") as f:
                f.write(framework_text(name, about, attention, rolling, ids[:1], {device: p}))
            out = subprocess.run([binary, "validate", cases, "--json", "--catalog", tmp], capture_output=True, text=True,
                                 check=True).stdout
            got = json.loads(out)["rows"]
            refused = [r["case_id"] + ": " + r["refused"] for r in got if r["refused"] is not None]
            if refused or len(got) != len(ids):
                sys.exit(f"{name}: of {len(ids)} calibration rows these cannot run: " + "; ".join(refused))
            return np.log([r["predicted_s"] / r["measured_s"] for r in got])

        r = least_squares(errors, [START[k] for k in free], loss="soft_l1", f_scale=0.05, diff_step=0.02,
                          bounds=([LOW[k] for k in free], [HIGH[k] for k in free]),
                          x_scale=[0.3 * START[k] for k in free], max_nfev=25)
        e = np.abs(np.exp(errors(r.x)) - 1)
    p = dict(fixed, **dict(zip(free, r.x)))
    print(f"{name} {device}: {device_text(p)}\n  {len(e)} calibration rows, mean {e.mean():.3f}, worst {e.max():.3f}")
    path, others = os.path.join(HERE, name + ".yaml"), ""
    if add:
        with open(path) as f:
            old = f.read()
        ids = old.split("calibration: [")[1].split("]")[0].split(", ") + ids
        others = "".join(x + "\n" for x in old.split("devices:\n")[1].splitlines() if not x.startswith(f"  {device}:"))
    with open(path, "w") as f:
        f.write(framework_text(name, about, attention, rolling, ids, {device: p}) + others)


main()
