#!/usr/bin/env python3
"""Every call that has a CUDA kernel has a row in the bench of kernels, or a reason here why not:
test_bench_rows.py ROOT."""
import pathlib
import re
import sys

EXEMPT = {
    "ATTN_BWD": "gpu.test_cudnn prints its rate",
    "ATTN_SLICE_FWD": "the simple kernel: it computes, memory does not bound it",
    "ATTN_SLICE_BWD": "the simple kernel: it computes, memory does not bound it",
    "CLIP": "eight numbers",
}

root = pathlib.Path(sys.argv[1])
table = set(re.findall(r"\[SF_CALL_(\w+)\] =", (root / "kernels/cuda/table.c").read_text()))
rows = set(re.findall(r"\{CALL\((\w+),", (root / "tests/cuda/gpu/bench_kernels_gpu.c").read_text()))
bad = [f"{name} has a kernel but no row" for name in sorted(table - rows - EXEMPT.keys())]
bad += [f"{name} has a row but no kernel" for name in sorted(rows - table)]
bad += [f"{name} is exempt for no reason" for name in sorted(EXEMPT.keys() & rows | EXEMPT.keys() - table)]
print("\n".join(bad) or f"{len(table)} kernels, {len(rows)} with rows")
sys.exit(bool(bad) or not table)
