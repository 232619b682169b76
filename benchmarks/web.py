"""FP32 beside INT8 in Chromium, by the page that `resnet-export web` writes; and its answers beside Python's.

    python benchmarks/web.py BUNDLE [--runs 50] [--screenshot web.png]

BUNDLE was exported with --int8 --target onnxruntime. Exit code 1 if INT8 is less than 1.7 times as fast as FP32.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from exporter.deploy.web import write_web
from runtimes import OrtRuntime
from runtimes.machine.environment import machine_info

TARGET = 1.7


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--screenshot", type=Path)
    parser.add_argument("--picture", type=Path, help="classified for the screenshot")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        report = write_web(arguments.bundle, site, precision="int8", open_runtime=OrtRuntime)
        shutil.copy(arguments.bundle / "model.onnx", site)
        server = subprocess.Popen(
            [sys.executable, site / "serve.py", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            times, checked, version = measure(server.stdout.readline().strip(), report.file, arguments)
        finally:
            server.terminate()
            server.wait()
    machine = machine_info()
    ratio = times["model.onnx"] / times[report.file]
    print(
        f"{machine.num_cores} cores of {machine.cpu}; Chromium {version}; medians of {arguments.runs} pictures in turn"
    )
    print(f"FP32 {times['model.onnx']:.1f} ms, INT8 {times[report.file]:.1f} ms: {ratio:.2f} times as fast")
    print(
        f"the class of Python's ONNX Runtime on {checked['same']} of {checked['images']} stored pictures, largest "
        f"difference {checked['relative_difference']:.1e} of the largest score"
    )
    return 0 if ratio >= TARGET and checked["same"] == checked["images"] else 1


def measure(address: str, file: str, arguments: argparse.Namespace) -> tuple[dict[str, float], dict[str, float], str]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    switches = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=switches)
        page = browser.new_page(viewport={"width": 800, "height": 800})
        page.goto(address)
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        times = page.evaluate(f"resnetExport.bench(['model.onnx', '{file}'], {arguments.runs})")
        checked = page.evaluate("resnetExport.selfCheck()")
        if arguments.screenshot:
            if arguments.picture:
                page.set_input_files("input", arguments.picture)
                page.locator("#answers li").first.wait_for()
            page.screenshot(path=arguments.screenshot, full_page=True)
        version = browser.version
        browser.close()
    return times, checked, version


if __name__ == "__main__":
    sys.exit(main())
