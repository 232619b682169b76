"""A bundle in the layouts that others read.

layouts            the words of `--layout`, and what each writes
huggingface        config.json, preprocessor_config.json, onnx/model*.onnx
ort_model_package  ONNX Runtime's model package: one variant per execution provider
mlflow_model       MLflow's ONNX flavor
"""
