#!/usr/bin/env bash
# What one GPU can show, inside ten minutes: loss and gradients, training, order, kernels, speed, memory, deterministic
# mode, cold start, calibration, forecasts; then JAX and PyTorch, and the virtual pipeline. docs/gpu.md, docs/baselines.md
# usage: tests/gpu/all.sh [BUILD_DIR] [RESULTS_DIR]      exit 77 where there is no GPU
#   SF_JAX_PYTHON, SF_TORCH_PYTHON   interpreters that have them (python3)
#   SF_GPU_BUDGET_S                  seconds for everything (590)
set -euo pipefail
case ${1:-} in -h | --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 0 ;; esac
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${1:-build/release} results=${2:-docs/results}
if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L >/dev/null 2>&1; then
  echo "skipped: looked for an NVIDIA GPU with nvidia-smi -L and found none"
  exit 77
fi
if [ ! -e "$build/libstaticfire-cuda.so" ]; then
  echo "skipped: $build/libstaticfire-cuda.so is not there: configure with -DSF_CUDA=ON on a machine with CUDA"
  exit 77
fi
exec python3 -B tests/gpu/all.py "$build" "$results"
