"""`make lab` as a reader meets it: pairs, a kernel, and a live widget that moves."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
LIVE = """\
import numpy as np

from minivim import show
from minivim_lab import widgets


def paint(level):
    return np.full((8, 8), level / 10)


widgets.live(paint, level=(0, 10, 1))"""


def ask(address: str, content: dict | None = None) -> dict:
    """The server's contents, read or written."""
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(
        address, data, method="GET" if data is None else "PUT"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on this machine over a folder with one small notebook."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    config = ROOT / "notebooks" / "jupytext.toml"
    (folder / config.name).write_text(config.read_text("utf-8"), "utf-8")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(LIVE)])
    # The kernel that the chapters name must be the one that is there.
    chapter = nbformat.read(ROOT / "notebooks" / "01_two_stages.ipynb", as_version=4)
    notebook.metadata["kernelspec"] = chapter.metadata["kernelspec"]
    nbformat.write(notebook, folder / "live.ipynb")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = {
        f"JUPYTER_{kind}_DIR": str(tmp_path / kind) for kind in ("CONFIG", "RUNTIME")
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"),
        *("--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"),
        *("--LabApp.news_url=None", f"--ServerApp.root_dir={folder}"),
    ]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            env={**os.environ, **own, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
            stdout=log,
            stderr=log,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, server, tmp_path / "log")
            yield address, folder
        finally:
            server.terminate()
            server.wait(30)


def _wait(address: str, server: subprocess.Popen, log: Path):
    """Until the server answers; fails with its log if it ends or takes too long."""
    for _ in range(120):
        try:
            ask(f"{address}/api/status")
            return
        except OSError:
            assert server.poll() is None, log.read_text()
            time.sleep(1)
    pytest.fail(log.read_text())


def test_saving_a_notebook_writes_its_twin(lab):
    address, folder = lab
    model = ask(f"{address}/api/contents/live.ipynb?content=1")
    model["content"]["cells"][0]["source"] += "\n# a change"
    ask(f"{address}/api/contents/live.ipynb", model)
    assert "# a change" in (folder / "live.md").read_text("utf-8")


def _run(cell):
    """Press the keys until the cell's number is a star or a figure.

    JupyterLab shows "idle" before its kernel is connected and drops what is pressed
    meanwhile, as a reader on a slow machine sees, too.
    """
    page, begun = cell.page, time.monotonic()
    number = cell.locator(".jp-InputPrompt")
    cell.locator(".cm-content").click()
    while time.monotonic() < begun + 120:
        page.keyboard.press("Control+Enter")
        for _ in range(20):
            if re.match(r"\[(\*|\d+)\]", number.inner_text()):
                return
            page.wait_for_timeout(250)
        cell.locator(".cm-content").click()
    pytest.fail(f"the cell never ran: {page.locator('body').inner_text()[-500:]}")


def test_a_live_widget_computes_anew(lab, chromium):
    address, _ = lab
    page = chromium.new_page()
    page.set_default_timeout(120_000)
    page.goto(f"{address}/lab/tree/live.ipynb?reset")
    _run(page.locator(".jp-Notebook .jp-CodeCell").first)
    picture = page.locator(".jp-OutputArea .widget-html img")
    picture.wait_for()
    before = picture.get_attribute("src")
    handle = page.locator(".jp-OutputArea .noUi-handle")
    size = handle.bounding_box()
    x, y = size["x"] + size["width"] / 2, size["y"] + size["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y, steps=8)
    page.mouse.up()
    page.wait_for_function(
        "before => document.querySelector('.jp-OutputArea .widget-html img').src"
        " != before",
        arg=before,
    )
    alt = picture.get_attribute("alt")
    assert alt.startswith("level = ") and alt != "level = 5"
    page.close()
