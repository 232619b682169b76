import re

from scipy import stats
from verify_reports import comparison, report

from runtimes.verification.markdown import markdown_summary


def cells(line):
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_the_summary_holds_verdict_figures_gates_and_causes():
    text = markdown_summary(
        report(comparison(0.05, num_flips=100), causes=[{"file": "model.int8.onnx", "sentence": "layer2.1 broke"}])
    )
    assert text.startswith("## ❌ resnet-export verify: fail\n")
    assert "**What broke**" in text
    assert "layer2.1 broke" in text
    low, high = stats.binomtest(300, 400).proportion_ci(confidence_level=0.9, method="wilson")  # the gates'
    assert f"75.00 % ({100 * low:.2f} % to {100 * high:.2f} %)" in text
    assert "| ❌ | model.int8.onnx | val | agreement |" in text


def test_names_of_images_and_classes_stay_in_their_cells():
    text = markdown_summary(report(comparison(0.05, num_flips=3)))
    tables = [line for line in text.splitlines() if line.startswith("| ") and ".png" in line]
    assert len(tables) == 3
    assert all(len(cells(line)) == 5 for line in tables)
    assert "<b>" not in text
    assert "a\\*b\\_c.png" in text
    assert "3 answers differ" in text


def test_without_flips_there_is_no_list_of_them():
    assert "answers differ" not in markdown_summary(report(comparison(0.0)))
