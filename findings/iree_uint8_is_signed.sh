#!/usr/bin/env bash
# Versions: IREE 3.13.0 (iree-import-onnx, iree-compile for llvm-cpu, its runtime), onnxruntime 1.32.0 (CPU), onnx 1.23.2 (its
#        reference evaluator), NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a UINT8 network (QLinearConv and MaxPool behind it, as ONNX Runtime's QOperator format and every post-training
#        quantizer with unsigned activations writes it) gives UINT8 answers, or is refused: the imported MLIR says ui8.
# Seen:  QuantizeLinear and DequantizeLinear read UINT8 as UINT8. MaxPool compares its bytes as INT8, so that 200 is less
#        than 10 and a bright picture takes the darkest pixel of each window, and QLinearConv reads its input as INT8: 256 too
#        little from 128 on. Whatever is UINT8 comes back as an array of int8. INT8 and float are right. Nothing warns.
# Output seen: "MaxPool of 10, 200, 30, 250: uint8 250 became 30, int8 right; QLinearConv of 1x1 by 1: 100, 200, 250 became 100, 0, 0; dtype int8; in QDQ right"
set -euo pipefail
