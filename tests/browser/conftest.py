"""A real browser on the built site: `make browser`.

Needs `make book` before it, and a Chromium of the system. Whatever a page asks for
outside this machine is refused and noted, and so is everything that it complains of.
"""

import os
import re
import shutil
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "book" / "_build" / "html"
VARIABLE = "MINIVIM_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
HERE = re.compile(
    r"(file:|data:|blob:|about:|(https?|wss?)://(localhost|127\.0\.0\.1)\b)"
)


def pytest_collection_modifyitems(items):
    """Everything in this folder runs when asked for: `pytest -m browser`."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker("browser")


def find_chromium() -> str:
    """The program; ends the session in one line if there is none."""
    given = os.environ.get(VARIABLE)
    for name in (given,) if given else NAMES:
        if found := shutil.which(name):
            return found
    what = (
        f"{VARIABLE}={given} is no program" if given else f"none of {', '.join(NAMES)}"
    )
    message = f"no Chromium here ({what}): install one, or set {VARIABLE} to its path"
    pytest.exit(message, returncode=1)


class Watch:
    """A page, and everything that was wrong with it so far."""

    def __init__(self, page):
        self.page, self.faults = page, []
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("console", self._said)
        page.on("request", self._asked)
        page.on("requestfailed", lambda r: self.faults.append(f"failed: {r.url[:200]}"))

    def _said(self, message):
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _asked(self, request):
        if not HERE.match(request.url):
            self.faults.append(f"request: {request.url}")

    def open(self, url: str):
        """Load a page and wait for its formulas."""
        self.page.goto(url)
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        return self


@pytest.fixture(scope="session")
def chromium():
    """One browser for all tests."""
    program = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def site() -> Path:
    """The folder of the built site."""
    if not (SITE / "index.html").exists():
        pytest.exit("there is no built site: run `make book` first", returncode=1)
    return SITE


@pytest.fixture
def visit(chromium, site):
    """Opens a page of the site in a fresh profile, light or dark, wide or narrow."""

    @contextmanager
    def opened(name: str, *, mode: str = "light", width: int = 1280, base: str = ""):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=mode
        )
        context.set_default_timeout(60_000)
        context.route(lambda url: not HERE.match(url), lambda route: route.abort())
        choice = "; ".join(
            f"localStorage.setItem('{key}', '{mode}')" for key in ("mode", "theme")
        )
        context.add_init_script(choice)
        watch = Watch(context.new_page())
        yield watch.open(f"{base or site.as_uri()}/{name}")
        context.close()

    return opened


@pytest.fixture
def served(site):
    """The address of the site on a server of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def pages() -> list[str]:
    """Every page of the site, as far as it is built."""
    return sorted(
        path.relative_to(SITE).as_posix()
        for path in SITE.rglob("*.html")
        if "_static" not in path.parts
    )


def chapters() -> list[str]:
    """The pages of the chapters, from their sources."""
    return [
        f"notebooks/{path.stem}.html"
        for path in sorted((ROOT / "notebooks").glob("[0-9]*.md"))
    ]
