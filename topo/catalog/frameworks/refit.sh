#!/bin/sh
# Fit every framework again, after the kernel or the network model has changed.
# usage: refit.sh STATICFIRE        (PYTHON: an interpreter with numpy and scipy)
#
# Calibration rows are named here and nowhere else. What a handful of rows cannot tell apart is held: the host's issue
# time at that of another framework of the same years, a few milliseconds for the end of the step, the cheap kernels of
# NeMo at 2.5 passes and its cross entropy in f32 at 20, fused ones at 1.5 and 4, and the hiding of gathered weights.
set -eu
cd "$(dirname "$0")"
fit() { "${PYTHON:-python3}" ./fit.py "$STATICFIRE" "$@"; }
STATICFIRE=$1
PUBLISHED=../../../tests/data/published
CASES=$PUBLISHED/validation_cases.csv

fit megatron-vtrain a100 unfused $PUBLISHED/vtrain_single_a100.csv 0.1:vtrain- fix:gather_hidden=0 \
    "about:Megatron-LM as measured by vTrain (arXiv 2312.12391): fp16, unfused attention, dropout, full recomputation"
host=$(sed -n 's/.*host_call: \([0-9.]*\)us.*/\1/p' megatron-vtrain.yaml)
fit megatron-2021 a100 unfused $CASES sc21-t1-1.7B sc21-t1-18.4B sc21-t1-310.1B fix:host_call="$host" fix:step=2 \
    fix:gather_hidden=0 "about:Megatron-LM of arXiv 2104.04473: fp16, unfused attention, dropout, full recomputation"
fit megatron-zb a100 unfused $CASES zb-1.5B-1F1B-m24 zb-28.3B-1F1B-m96 fix:step=2 fix:gather_hidden=0 fix:loss=3 \
    fix:host_call=8 "about:Megatron-LM of arXiv 2401.10241 (2023): fp16, unfused attention whose scores are kept, dropout, no recomputation"
fit nemo-dgxc-24.11 h100 fused $CASES dgxc-gpt3_175b-h100-bf16-128-064 dgxc-gpt3_175b-h100-fp8-128-069 \
    dgxc-grok1_314b-h100-bf16-8-000 dgxc-grok1_314b-h100-fp8-16-010 fix:step=2 fix:pointwise=2.5 fix:loss=20 fix:host_call=8 \
    fix:gather_hidden=0.95 "about:NeMo and Megatron Core of the DGX Cloud recipes v24.11.1"
fit nemo-dgxc-25.02 h100 fused $CASES dgxc-gpt3_175b-h100-bf16-128-175 dgxc-gpt3_175b-h100-fp8-128-180 \
    dgxc-grok1_314b-h100-bf16-8-113 dgxc-grok1_314b-h100-fp8-16-123 fix:step=2 fix:pointwise=2.5 fix:loss=20 fix:host_call=8 \
    fix:gather_hidden=0.95 "about:NeMo and Megatron Core of the DGX Cloud recipes v25.02.02 and later"
fit nemo-mlperf-3.1 h100 fused $CASES mlperf-gpt3-h100-512-nvidia-v3.1 mlperf-gpt3-h100-10752-nvidia-v3.1 \
    fix:step=2 fix:loss=4 fix:host_call=1 fix:pointwise=1.5 fix:gemm_share=0.9 \
    "about:NeMo with CUDA graphs as submitted to MLPerf training v3.1"
hidden=$(sed -n 's/.*gather_hidden: \([0-9.]*\).*/\1/p' nemo-mlperf-3.1.yaml)
for release in 4.0 4.1; do
    fit "nemo-mlperf-$release" h100 fused $CASES "mlperf-gpt3-h100-512-nvidia-v$release" fix:step=2 fix:loss=4 \
        fix:host_call=1 fix:pointwise=1.5 fix:gemm_share=0.9 fix:gather_hidden="${hidden:-0}" \
        "about:NeMo with CUDA graphs as submitted to MLPerf training v$release"
done
foundry() { fit llm-foundry "$2" fused $CASES "0.1:mpt-@$1" fix:host_call=8 fix:step=5 fix:gather_hidden=0 fix:loss=8 \
    free:attention_share "about:LLM Foundry on PyTorch FSDP, as in its benchmarking README" $3; }
foundry H100 h100 ""
foundry A100-80G a100 add
foundry A100-40G a100-40g add
