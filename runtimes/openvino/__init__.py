"""OpenVINO: the fastest known way to run these files on an x86 processor (docs/openvino.md).

adapter             an ONNX file behind the `Runtime` contract
misread_operators   what OpenVINO would compute otherwise than the file says
node_precision      what each node of a compiled model really computes in
openvino_library    the one Core of this process, and which properties a file is compiled with
"""
