"""The graphs of each kind of model, written node by node as ONNX or traced for Paddle Inference."""
