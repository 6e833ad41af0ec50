#!/usr/bin/env python3
"""Write more_cases.csv of this folder: published runs in the columns of validation_cases.csv that are not in it.

usage: more_cases.py dgxc_h100_gb200_steptime.csv zerobubble_table4_throughput.csv

JAX frameworks beside NeMo on the same hardware (MaxText, PaxML: weights sharded over all ranks, one microbatch), and the
schedules ZB-1p and ZB-2p of Zero Bubble's Table 4. What a table does not state stays empty or unknown; topo/catalog/
frameworks/index.yaml says what is assumed instead."""
import csv
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
MODELS = {"maxtext_llama3_70b": "llama3.1_70b", "maxtext_llama2_70b": "llama2_70b", "paxml_gpt3_175b": "gpt3_175b"}


def common(r, source_file, gpu):
    return {"tier": "C", "source_file": source_file, "source": r["source"], "gpu": gpu, "nvlink_domain_gpus": 8,
            "gpus": r["gpus"], "layers": r["layers"], "hidden": r["hidden"], "heads": r["heads"],
            "head_dim": int(r["hidden"]) // int(r["heads"]), "ffn": r["ffn"], "seq_len_tokens": r["seq_len_tokens"],
            "cp": 1, "ep": 1, "mbs_seqs": r["mbs_seqs"], "gbs_seqs": r["gbs_seqs"], "confirmed": r["confirmed"]}


def jax(r, i):
    gated, gpus = int("llama" in r["model"]), int(r["gpus"])
    return common(r, "dgxc_jax_steptime.csv", "H100") | {
        "case_id": f"jax-{r['model']}-h100-{r['precision'].lower()}-{gpus}-{i:03d}", "nic_gbps_per_gpu": 400,
        "model": MODELS[r["model"]], "kv_heads": r["kv_heads"], "attention": "gqa" if gated else "mha",
        "gated_mlp": gated, "vocab": r["vocab"], "tp": 1, "pp": 1, "vpp_chunks_per_gpu": 1, "dp": gpus,
        "microbatches": int(r["gbs_seqs"]) // gpus // int(r["mbs_seqs"]), "recompute": "unknown",
        "sequence_parallel": 0, "zero_stage": 3, "precision": r["precision"].lower(), "schedule": "none",
        "step_time_s": r["step_time_s"], "step_time_kind": "measured", "assumptions": "recomputation by an XLA policy"}


def zero_bubble(r):
    return common(r, "zerobubble_table4_throughput.csv", "A100-80G") | {
        "case_id": f"zb-{r['params']}-{r['schedule']}-m{r['microbatches']}", "tier": "A", "source": "arXiv 2401.10241 T4",
        "model": f"GPT {r['params']}", "kv_heads": r["heads"],
        "attention": "mha", "gated_mlp": 0, "tp": r["tp"], "pp": r["pp"], "vpp_chunks_per_gpu": 1, "dp": r["dp"],
        "microbatches": r["microbatches"], "recompute": "none", "sequence_parallel": 0, "zero_stage": 0,
        "precision": "fp16", "schedule": r["schedule"], "step_time_s": r["step_time_s_derived"],
        "step_time_kind": "derived from samples/GPU/s (3 digits)", "peak_mem_GB": r["peak_mem_GB"],
        "assumptions": "NIC rate not stated; vocab not stated"}


def main():
    with open(os.path.join(HERE, "validation_cases.csv"), newline="") as f:
        columns = next(csv.reader(f))
    rows = []
    with open(sys.argv[1], newline="") as f:
        rows += [jax(r, i) for i, r in enumerate(csv.DictReader(f)) if r["model"] in MODELS]
    with open(sys.argv[2], newline="") as f:
        rows += [zero_bubble(r) for r in csv.DictReader(f) if r["schedule"] in ("ZB-1p", "ZB-2p")]
    with open(os.path.join(HERE, "more_cases.csv"), "w", newline="") as out:
        w = csv.DictWriter(out, columns, restval="", lineterminator="\n")
        w.writeheader()
        w.writerows(rows)


main()
