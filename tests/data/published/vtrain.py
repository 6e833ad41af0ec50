#!/usr/bin/env python3
"""Write vtrain_single_a100.csv of this folder: vTrain's measured single-node runs in the columns of validation_cases.csv.

usage: vtrain.py vtrain_single_a100.csv

Facts that the table does not state come from vTrain's code and are named in `assumptions`: its vocabulary of 50,257,
padded as Megatron does to a multiple of 128 times tp, feed-forward layers of four times the hidden size."""
import csv
import os
import sys

here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "validation_cases.csv"), newline="") as f:
    columns = next(csv.reader(f))
with open(sys.argv[1], newline="") as f, open(os.path.join(here, "vtrain_single_a100.csv"), "w", newline="") as out:
    w = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    w.writeheader()
    for i, r in enumerate(csv.DictReader(f)):
        tp, hidden, heads = int(r["tp"]), int(r["hidden"]), int(r["heads"])
        w.writerow({
            "case_id": f"vtrain-{i:04d}", "tier": "B", "source_file": "vtrain_single_a100.csv", "source": r["source"],
            "gpu": "A100-80G", "nvlink_domain_gpus": 8, "gpus": r["gpus"], "model": f"GPT {r['layers']}x{hidden}",
            "layers": r["layers"], "hidden": hidden, "heads": heads, "kv_heads": heads, "head_dim": hidden // heads,
            "attention": "mha", "ffn": 4 * hidden, "gated_mlp": 0, "vocab": -(-50257 // (128 * tp)) * 128 * tp,
            "seq_len_tokens": r["seq_len_tokens"], "tp": tp, "cp": 1, "pp": r["pp"], "vpp_chunks_per_gpu": 1, "ep": 1,
            "dp": r["dp"], "mbs_seqs": r["mbs_seqs"], "gbs_seqs": r["gbs_seqs"],
            "microbatches": int(float(r["microbatches"])), "recompute": r["recompute"], "sequence_parallel": 0,
            "zero_stage": 0, "precision": "fp16", "schedule": "1F1B" if int(r["pp"]) > 1 else "none",
            "step_time_s": f"{float(r['step_time_ms']) / 1000:.6f}", "step_time_kind": "measured",
            "assumptions": "vocabulary of vTrain's code (50257, padded); ffn = 4 hidden; fp16; no ZeRO",
            "confirmed": r["confirmed"]})
