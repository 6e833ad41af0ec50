#!/usr/bin/env python3
"""Fit the kernel model of every device to published tables and write the files of this folder.

usage: fit.py DATA_FOLDER [DEVICE ...]      (needs numpy and scipy)

The formulas are those of sim/cost_gemm.c, sim/cost_attention.c and sim/cost_memory.c. Every table is split in two at
random (seed 1): one half is fitted, the errors written into the files are those of the other half."""
import csv
import os
import sys

import numpy as np
from scipy.optimize import least_squares

# Dense peak in 4 bits.
FP4 = {"b200": 9e15, "b300": 13.5e15, "gb200": 9.8e15, "gb300": 14.7e15}
# name: cores, bf16 peak, memory rate, table of GEMMs, name in the attention tables
DEVICES = {
    "a100": (108, 312e12, 2.0e12, "a100_sxm", "A100"),
    "h100": (132, 989e12, 3.35e12, "h100_sxm", "H100"),
    "h200": (132, 989e12, 4.8e12, "h200", "NVIDIA H200"),
    "b200": (148, 2250e12, 8e12, "b200", None),
    "b300": (148, 2250e12, 8e12, "b300", None),
    "gb200": (148, 2450e12, 8e12, "gb200", "NVIDIA GB200"),
    "gb300": (148, 2450e12, 8e12, "gb300", "NVIDIA GB300"),
}
TILES = ((256, 128), (128, 256), (128, 128), (128, 64), (64, 128), (64, 64))
SPLITS = (1, 2, 4, 8)


def table(folder, name):
    with open(os.path.join(folder, name), newline="") as f:
        return list(csv.DictReader(f))


def gemm_s(p, mnk, cores, peak, memory, elem):
    share, tile_loss, k_prologue, wave, launch, memory_share, cast_share = p
    m, n, k = mnk.T
    best = np.full(len(m), np.inf)
    for tm, tn in TILES:
        tiles = np.ceil(m / tm) * np.ceil(n / tn)
        rate = peak / cores * share / (1 + tile_loss * (1 / tm + 1 / tn))
        for s in SPLITS:
            load = tiles * s / cores
            waves = np.maximum(wave * np.ceil(load) + (1 - wave) * load, 1)
            t = waves * (k / s + k_prologue) * 2 * tm * tn / rate
            best = np.minimum(best, t + (4.0 * m * n * s / (memory * memory_share) if s > 1 else 0))
    traffic = (elem * (m * k + k * n) + 2 * m * n) / (memory * memory_share)
    cast = (2 + elem) * m * k / (memory * cast_share) if elem <= 1 else 0
    return launch + np.maximum(best, traffic) + cast


def attention_s(p, rows, peak):
    share, softmax_dim, seq_prologue = p
    flops, seq, dim, causal = rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3]
    keys = np.where(causal > 0, seq / 2, seq)
    return flops / (peak * share) * (1 + softmax_dim / dim) * (1 + seq_prologue / keys)


def memory_s(p, rows, memory):
    return p[0] * 1e-6 + rows[:, 0] / (memory * p[1])


def fit(model, rows, times, start, low, high, scale):
    order = np.random.default_rng(1).permutation(len(times))
    half, other = order[: len(order) // 2], order[len(order) // 2 :]
    r = least_squares(lambda p: np.log(model(p, rows[half]) / times[half]), start, loss="soft_l1", f_scale=0.05,
                      bounds=(low, high), x_scale=scale, diff_step=1e-3)
    error = np.abs(model(r.x, rows[other]) / times[other] - 1)
    return r.x, np.median(error), np.quantile(error, 0.9)


def fit_gemm(folder, device, dtype):
    cores, peak, memory, name, _ = DEVICES[device]
    rows = [x for x in table(folder, f"gemm_aic_{name}.csv") if x["dtype"] == {"bf16": "bfloat16"}.get(dtype, dtype)]
    if not rows:
        return None
    mnk = np.array([[float(x[d]) for d in "mnk"] for x in rows])
    times = np.array([float(x["time_us"]) for x in rows]) * 1e-6
    elem = {"bf16": 2, "nvfp4": 0.5}.get(dtype, 1)
    top = FP4[device] if dtype == "nvfp4" else peak * 2 / elem
    p, median, p90 = fit(lambda q, r: gemm_s(q, r, cores, top, memory, elem), mnk, times,
                         [0.85, 16, 100, 0.7, 4e-6, 0.8, 0.5], [0.3, 0, 0, 0, 0, 0.2, 0.05],
                         [1, 200, 2000, 1, 2e-5, 1, 1], [0.1, 10, 100, 0.3, 2e-6, 0.2, 0.2])
    span = ", ".join(f"{d}: [{int(mnk[:, i].min())}, {int(mnk[:, i].max())}]" for i, d in enumerate("mnk"))
    cast = f", cast_share: {p[6]:.3f}" if elem <= 1 else ""
    return (f"gemm_{dtype}: {{ peak_share: {p[0]:.3f}, tile_loss: {p[1]:.2f}, k_prologue: {p[2]:.1f}, wave: {p[3]:.3f}, "
            f"launch: {p[4] * 1e6:.2f}us, memory_share: {p[5]:.3f}{cast},\n  {span},\n"
            f"  p90: {p90:.3f}, source: \"aiconfigurator 095f58a5 {name} GEMM {dtype}: {len(rows)} rows, half fitted; other half: median "
            f"error {median * 100:.1f} %, p90 {p90 * 100:.1f} %\", grade: measured }}\n")


def attention_rows(folder, gpu, which):
    out = []
    if gpu in ("A100", "H100"):
        want = ("FlashAttention-2", "fwd+bwd") if gpu == "A100" else ("cuDNN", "fwd")
        for x in table(folder, "flash_attention_a100_h100.csv"):
            if x["gpu"].startswith(gpu) and (x["implementation"], x["pass"]) == want:
                s, d, units = float(x["seq_len"]), float(x["head_dim"]), float(x["batch"]) * float(x["heads"])
                causal = x["causal"] == "1"
                flops = 4 * s * s * d * units * (0.5 if causal else 1) * (3.5 if gpu == "A100" else 1)
                out.append((flops, s, d, causal, flops / float(x["tflops"]) / 1e12))
        return np.array(out, float), f"flash-attention charts, {gpu} {want[0]} {want[1]}"
    for x in table(folder, "sdpa_cudnn_gb300_gb200_h200.csv"):
        if (x["gpu"] == gpu and x["dtype"] == "bfloat16" and x["pass"] == which and x["backend"] == "cudnn"
                and not x["sliding_window"] and x["head_dim_qk"] == x["head_dim_vo"]):
            s, d, units = float(x["q_seqlen"]), float(x["head_dim_qk"]), float(x["batch"]) * float(x["q_heads"])
            causal = x["mask"] == "top_left"
            flops = 4 * s * s * d * units * (0.5 if causal else 1) * (2.5 if which == "bwd" else 1)
            out.append((flops, s, d, causal, float(x["time_ms"]) * 1e-3))
    return np.array(out, float), f"cudnn-frontend SDPA, {gpu} {which}"


# Where a pass has no table of its own: the device whose table stands in.
STAND_IN = {("h100", "bwd"): "NVIDIA H200", ("b200", "fwd"): "NVIDIA GB200", ("b200", "bwd"): "NVIDIA GB200",
            ("b300", "fwd"): "NVIDIA GB300", ("b300", "bwd"): "NVIDIA GB300"}


def fit_attention(folder, device, which):
    other = STAND_IN.get((device, which))
    gpu = other or DEVICES[device][4]
    peak = next(d[1] for d in DEVICES.values() if d[4] == gpu)
    rows, source = attention_rows(folder, gpu, which)
    p, median, p90 = fit(lambda q, r: attention_s(q, r, peak), rows, rows[:, 4], [0.7, 10, 100], [0.1, 0, 0],
                         [1, 300, 3000], [0.1, 10, 100])
    if other:
        source += " in place of a missing table"
    return (f"attention_{'forward' if which == 'fwd' else 'backward'}: {{ peak_share: {p[0]:.3f}, softmax_dim: {p[1]:.1f}, "
            f"seq_prologue: {p[2]:.0f},\n  seq: [{int(rows[:, 1].min())}, {int(rows[:, 1].max())}], head_dim: "
            f"[{int(rows[:, 2].min())}, {int(rows[:, 2].max())}],\n  p90: {p90:.3f}, source: \"{source}: {len(rows)} rows, half fitted; "
            f"other half: median error {median * 100:.1f} %, p90 {p90 * 100:.1f} %\", "
            f"grade: {'extrapolated' if other else 'measured'} }}\n")


def fit_memory(folder, device):
    # BabelStream's Copy gives the rate where there is no table of kernels; the floor is then that of H200.
    stream = {"a100": (0.805, "A100"), "h100": (0.866, "H100")}
    if device in stream:
        return (f"memory: {{ launch: 1.87us, share: {stream[device][0]}, source: \"Azure AI-benchmarking-guide, "
                f"BabelStream Copy on {stream[device][1]}; floor of the H200 table\", grade: measured }}\n")
    gpu = {"b200": "NVIDIA GB200", "b300": "NVIDIA GB300"}.get(device, DEVICES[device][4])
    rows = []
    for x in table(folder, "norms_cudnn_gb300_gb200_h200.csv"):
        if x["gpu"] == gpu and x["backend"] == "cudnn" and x["dtype"] == "bfloat16":
            n = 2 * float(x["tokens_N"]) * float(x["hidden_C"])
            rows += [(2 * n, float(x["fwd_time_ms"]) * 1e-3)]
    rows = np.array(rows)
    p, median, p90 = fit(lambda q, r: memory_s(q, r, DEVICES[device][2]), rows, rows[:, 1], [3, 0.8], [0, 0.2],
                         [30, 1], [1, 0.2])
    return (f"memory: {{ launch: {p[0]:.2f}us, share: {p[1]:.3f}, p90: {p90:.3f}, source: \"cudnn-frontend norms, {gpu}, RMSNorm and "
            f"LayerNorm forward: {len(rows)} rows, half fitted; other half: median error {median * 100:.1f} %, p90 "
            f"{p90 * 100:.1f} %\", grade: {'extrapolated' if device[:2] in ('b2', 'b3') else 'measured'} }}\n")


def main():
    folder, wanted = sys.argv[1], sys.argv[2:] or list(DEVICES)
    here = os.path.dirname(os.path.abspath(__file__))
    for device in wanted:
        parts = [f"# Fitted by fit.py; sim/cost_internal.h says what the numbers mean.\nname: {device}\n",
                 f"cores: {{ value: {DEVICES[device][0]}, source: \"NVIDIA architecture white papers: streaming "
                 f"multiprocessors\", grade: datasheet }}\n"]
        parts += [fit_gemm(folder, device, d) or "" for d in ("bf16", "fp8", "fp8_block", "nvfp4")]
        parts += [fit_attention(folder, device, w) for w in ("fwd", "bwd")]
        parts.append(fit_memory(folder, device))
        with open(os.path.join(here, device + ".yaml"), "w") as f:
            f.write("".join(parts))
        print("".join(parts))


main()
