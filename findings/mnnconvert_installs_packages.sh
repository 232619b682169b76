#!/usr/bin/env bash
# Versions: MNN 3.6.1, onnx 1.23.2 with protobuf 7.36.2 in another environment; Python 3.11, x86-64.
# Guess: `mnnconvert` converts a file, and leaves the Python environments of the machine as they are.
# Seen:  before it converts, the tool imports its usage log, and where aliyun-log-python-sdk is missing it calls
#        `pip install -U` of it: not its own Python's pip but the first `pip` on PATH. Started by its full path while
#        another environment is active, it fills that one with a dozen packages, and replaces protobuf 7 by 5, with which
#        onnx no longer imports. The conversion says nothing of it and succeeds. (The log, which it then sends with the
#        machine's id, is kept from the network here.) `_tools`, which the command wraps, does neither.
# Output seen: "pip install -U aliyun-log-python-sdk" twice, then "before: protobuf 7.36.2, onnx imports; after one conversion: protobuf
#        5.29.6, 19 packages more, onnx does not import"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/mnn"
"$folder/mnn/bin/pip" install -q --disable-pip-version-check MNN==3.6.1 numpy==2.4.6
python3 -m venv "$folder/mine"
"$folder/mine/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 numpy==2.4.6 protobuf==7.36.2

state() { # protobuf's version, how many packages, whether onnx imports
    local imports=imports
    "$folder/mine/bin/python" -c "import onnx" 2>/dev/null || imports="does not import"
    echo "$("$folder/mine/bin/pip" list --format=freeze 2>/dev/null | sed -n 's/^protobuf==//p')" \
        "$("$folder/mine/bin/pip" list --format=freeze 2>/dev/null | wc -l)" "$imports"
}

"$folder/mine/bin/python" - "$folder" <<'PYTHON'
import sys

import onnx
from onnx import TensorProto, helper

ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, f"{sys.argv[1]}/m.onnx")
PYTHON
read -r protobuf_before packages_before imports_before <<<"$(state)"
# The environment `mine` is active, the converter is called by its path. A proxy that is none keeps its log at home; pip
# gets through, and notes that it was called.
mkdir "$folder/bin"
cat >"$folder/bin/pip" <<PIP
#!/bin/sh
echo "pip \$*" >>"$folder/called"
unset https_proxy HTTPS_PROXY
exec "$folder/mine/bin/pip" "\$@"
PIP
chmod +x "$folder/bin/pip"
PATH="$folder/bin:$folder/mine/bin:$PATH" https_proxy=http://127.0.0.1:9 HTTPS_PROXY=http://127.0.0.1:9 timeout 600 \
    "$folder/mnn/bin/mnnconvert" -f ONNX --modelFile "$folder/m.onnx" --MNNModel "$folder/m.mnn" >"$folder/log" 2>&1
test -s "$folder/m.mnn"
read -r protobuf_after packages_after imports_after <<<"$(state)"
more=$((packages_after - packages_before))
cat "$folder/called"
echo "before: protobuf $protobuf_before, onnx $imports_before; after one conversion: protobuf $protobuf_after," \
    "$more packages more, onnx $imports_after"
[ "$imports_before" = imports ] && [ "$imports_after" = "does not import" ] && [ "$more" -gt 5 ] \
    && [ "${protobuf_after%%.*}" -lt 7 ]
