"""The built book as a browser shows it, without a network: run by `make pages`.

Needs `make book` and, from Debian, chromium and chromium-driver.
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
from selenium import webdriver

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
PAGES = sorted(page for page in HTML.glob("*.html") if page.stem not in ("index", "search", "genindex", "py-modindex"))
CHAPTERS = [page for page in PAGES if re.match(r"\d\d_", page.name)]
WIDTHS = {"wide": 1400, "tablet": 1024, "phone": 390}


def test_the_book_is_built():
    assert len(CHAPTERS) >= 4, f"{len(CHAPTERS)} chapters in {HTML}; run `make book`."


@pytest.fixture(scope="module")
def site():
    """Address of the book on this machine: a browser lets pages in files load no fonts."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(site):
    driver = shutil.which("chromedriver")
    chromium = shutil.which("chromium")
    if not (driver and chromium):
        pytest.fail("No chromium: `apt-get install chromium chromium-driver`.")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.site = site
    yield browser
    browser.quit()


def open_page(browser, page: Path, width: int = WIDTHS["wide"]) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.get(f"{browser.site}/{page.name}")
    browser.execute_async_script(
        "const done = arguments[0]; window.MathJax?.startup ? MathJax.startup.promise.then(() => done()) : done()"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_whole_without_a_network(browser, page):
    browser.get_log("browser"), browser.get_log("performance")  # Those of the page before.
    open_page(browser, page)
    errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert not errors
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert requests
    assert not [url for url in requests if not url.startswith((browser.site, "data:", "blob:"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_formulas_are_typeset(browser, page):
    open_page(browser, page)
    bare, wrong = browser.execute_script(
        "const math = [...document.querySelectorAll('.math')];"
        "return [math.filter(m => !m.querySelector('mjx-container')).map(m => m.innerText),"
        "        [...document.querySelectorAll('mjx-merror')].map(m => m.innerText)]"
    )
    assert not bare and not wrong
    text = browser.execute_script(
        "const article = document.querySelector('article').cloneNode(true);"
        "article.querySelectorAll('pre, code, mjx-container').forEach(e => e.remove());"
        "return article.textContent"
    )
    assert not re.search(r"\$|\\\(|\{glue|\{eq|\{doc", text), "raw markup on the page"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_figures_have_a_size_and_alternative_text(browser, page):
    open_page(browser, page)
    images = browser.execute_script(
        "return [...document.querySelectorAll('article img')].map(i => [i.src, i.naturalWidth, i.clientWidth, i.alt])"
    )
    for source, natural, shown, alt in images:
        assert natural > 100 and shown > 100, source
        assert len(alt) > 20 and "/" not in alt.split()[0], f"{source}: alt text is {alt!r}"
    if page in CHAPTERS:
        assert len(images) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_internal_links_resolve(browser, page):
    open_page(browser, page)
    links = browser.execute_script("return [...document.querySelectorAll('a[href]')].map(a => a.href)")
    for link in {link for link in links if link.startswith(browser.site)}:
        parts = urlparse(link)
        target = HTML / unquote(parts.path).lstrip("/")
        assert target.exists(), link
        if parts.fragment and target.suffix == ".html":
            assert re.search(rf'id="{re.escape(unquote(parts.fragment))}"', target.read_text()), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_nothing_went_wrong_in_the_build(browser, page):
    open_page(browser, page)
    wrong = browser.execute_script(
        "return [...document.querySelectorAll('.problematic, .system-message, .output.stderr')].map(e => e.innerText)"
    )
    assert not wrong


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_does_not_scroll_sideways(browser, page, width):
    open_page(browser, page, width)
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= width + 1


def test_a_slider_shows_one_picture_at_a_time(browser):
    open_page(browser, HTML / "01_a_pinn_that_fails.html")
    shown = "return [...document.querySelectorAll('figure.slider [role=img]')].map(e => e.checkVisibility())"
    assert browser.execute_script(shown).index(True) == 8  # Without a touch the last one, where it fails.
    browser.execute_script(
        "const s = document.querySelector('figure.slider input'); s.value = 2; s.dispatchEvent(new Event('input'))"
    )
    assert [i for i, visible in enumerate(browser.execute_script(shown)) if visible] == [2]
    assert browser.execute_script("return document.querySelector('figure.slider output').value") == "C = 4"


def test_a_downloaded_chapter_runs_by_itself(browser, tmp_path):
    """In a new environment and an empty folder, as in Colab; this one reads results and imports an experiment."""
    open_page(browser, HTML / "18_when_the_kernel_moves.html")
    link = browser.execute_script("return document.querySelector('a.btn-download-source-button').href")
    shutil.copy(HTML / urlparse(link).path.lstrip("/"), tmp_path / "alone.ipynb")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, clean = tmp_path / "venv/bin/python", {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([python, "-m", "pip", "install", "--quiet", "ipykernel", "nbconvert"], check=True, env=clean)
    run = [python, "-m", "nbconvert", "--execute", "--to", "notebook", "--output", "run.ipynb", "alone.ipynb"]
    subprocess.run([*run, "--ExecutePreprocessor.kernel_name=python3"], check=True, cwd=tmp_path, env=clean)
