"""`put_json`: what is written reads back, whatever a file in it is called."""

import json
import os

from resnet_export.console.put_json import put_json


def test_a_report_may_name_a_file_whose_name_is_no_utf8(tmp_path):
    report = {"file": os.fsdecode(b"caf\xe9.onnx"), "label": "Käse"}
    put_json(report, tmp_path / "new" / "report.json")
    assert json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8")) == report
