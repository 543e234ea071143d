"""Notebooks 0, 6 and 8 in a real JupyterLab in a real browser, driven like a person would, on the walk's tiny run."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from groundnlq.notebook import HOME_VARIABLE
from groundnlq.notebook_runs import _notebook_parameters

ROOT = Path(__file__).resolve().parents[1]
FRONT_DOOR, EXPLORER, OWN_VIDEO = "00_ask.ipynb", "06_error_analysis.ipynb", "08_own_video.ipynb"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE_MS = 240_000  # of a loaded machine; the test itself is over in a fraction of it
SETTINGS = {
    # or JupyterLab keeps only the cells in sight in the page
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
CONTROLS = {"template", "outcome", "clip", "order", "query", "◀ previous", "next ▶", "ask", "run", "second run"}
CONTROLS |= {"top k", "tIoU >", "NMS sigma", "min. score", "go to", "keep note and picture", "reset"}
CELLS_PX = 650  # height of the notebook's cells in JupyterLab on a screen of 1366 x 768
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]


def copy_with_parameters(name: str, folder: Path, values: dict[str, object]) -> Path:
    """The notebook with other defaults, as a person would have edited them."""
    content = json.loads((ROOT / "notebooks" / name).read_text(encoding="utf-8"))
    (cell,) = [c for c in content["cells"] if "parameters" in c["metadata"].get("tags", ())]
    known = _notebook_parameters(ROOT / "notebooks" / name)
    given = known | {key: value for key, value in values.items() if key in known}
    cell["source"] = "\n".join(f"{key} = {value!r}" for key, value in given.items())
    copy = folder / name
    copy.write_text(json.dumps(content), encoding="utf-8")
    return copy


@pytest.fixture
def lab(walk, tmp_path) -> Iterator[tuple[Callable[[str], str], Path]]:
    """Addresses of notebooks in a JupyterLab, on this machine only and with a token, and its folder."""
    run, data, _ = walk
    root = tmp_path / "lab"
    root.mkdir()
    for name, values in SETTINGS.items():
        path = tmp_path / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    values = {"run_dir": str(run), "data_folder": str(data), "num_videos": 2, "epochs": 2}
    values |= {"world_folder": str(data.with_name("ask"))}
    for name in (FRONT_DOOR, EXPLORER, OWN_VIDEO):
        copy_with_parameters(name, root, values)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--ServerApp.root_dir={root}"]
    options += [f"--IdentityProvider.token={token}", "--ServerApp.port_retries=0"]
    options += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    places = {
        name: str(tmp_path / name)
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"), HOME_VARIABLE: str(ROOT)}
    with open(tmp_path / "lab.log", "wb") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], stdin=subprocess.DEVNULL,
                                  stdout=log, stderr=log, env=os.environ | places)  # fmt: skip
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, tmp_path / "lab.log")
            yield lambda name: f"http://127.0.0.1:{port}/doc/tree/{name}?token={token}", root
        finally:
            server.terminate()
            server.wait(30)


def wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    while server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab ended with {server.returncode}: {log.read_text()[-2000:]}")


@pytest.fixture
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Desk:
    """What a person sees and does in the notebook."""

    def __init__(self, page):
        self.page = page
        page.set_default_timeout(PATIENCE_MS)

    def run_all(self) -> None:
        self.rest()
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells").first.click()
        last = self.page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")
        last.filter(has_text=re.compile(r"\[\d+\]")).wait_for()
        assert self.page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0

    def rest(self) -> None:
        """Wait until the kernel has nothing to do, and so has sent all its pictures."""
        self.page.get_by_text(re.compile(r"Python 3.* \| Idle")).wait_for()

    def save(self) -> None:
        self.page.get_by_role("menuitem", name="File", exact=True).click()
        self.page.get_by_role("menuitem", name=re.compile(r"^Save Notebook(?! As)")).first.click()

    @property
    def cell(self):
        return self.page.locator(".jp-CodeCell", has=self.page.locator(".widget-hbox")).last

    def control(self, kind: str, name: str):
        label = self.page.locator("label", has_text=re.compile(f"^{re.escape(name)}$"))
        return self.cell.locator(kind, has=label)

    def choose(self, name: str, index: int, kind: str = ".widget-dropdown") -> str:
        """Choose an option by its place; the text that was chosen."""
        box = self.control(kind, name).locator("select")
        box.select_option(index=index)
        return box.locator("option").nth(index).inner_text().replace("\xa0", " ")

    def press(self, name: str, key: str) -> None:
        """A key on a slider, reached as the keyboard reaches it."""
        handle = self.control(".widget-slider, .widget-inline-hbox", name).first.locator(".noUi-handle")
        handle.focus()
        handle.press(key)

    def reached_by_tab(self) -> set[str]:
        """Names of the controls that the Tab key leads to, from the first one on."""
        self.control(".widget-text", "search").locator("input").focus()
        names = set()
        for _ in range(26):
            self.page.keyboard.press("Tab")
            names.add(self.page.evaluate(
                "(() => { const here = document.activeElement, box = here.closest('.widget-inline-hbox');"
                "return (box?.querySelector('label') ?? here).innerText; })()"
            ).strip())  # fmt: skip
        return names

    @property
    def image(self):
        return self.cell.locator(".groundnlq-picture img")

    @property
    def picture(self) -> str:
        return self.image.get_attribute("src")

    def content(self) -> str:
        """The shown PNG in base64."""
        read = """async image => { const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
                  return btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join("")); }"""
        return self.image.evaluate(read)

    def agrees(self) -> bool:
        """Whether numbers and picture are of the same query."""
        return self.image.get_attribute("alt").startswith(self.cell.locator(".widget-html b").last.inner_text())

    @property
    def numbers(self) -> str:
        return self.cell.locator(".widget-html").last.inner_text()

    def until(self, is_so, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while not is_so():
            assert time.monotonic() < deadline, f"in vain: {what}; the numbers are {self.numbers}"
            self.page.wait_for_timeout(50)

    def after(self, act) -> str:
        """The picture after an action, which must be another one than before."""
        before = self.picture
        act()
        self.until(lambda: self.picture != before, "another picture")
        return self.picture


def test_a_person_explores_in_jupyterlab_and_the_picture_stays_in_the_file(lab, browser, walk, tmp_path):
    address, root = lab
    notebook = root / EXPLORER
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    desk = Desk(page)
    page.goto(address(EXPLORER))
    desk.run_all()
    strict = json.loads((walk[0] / "metrics" / "finetune.json").read_text())["strict"]
    assert f"{strict['R@1 IoU=0.3']:.1f} %\t{strict['R@5 IoU=0.3']:.1f} %" in desk.numbers
    assert desk.cell.get_by_text("of 54", exact=False).first.is_visible()

    assert desk.reached_by_tab() >= CONTROLS

    keys_stay_in_the_controls(desk)
    both_moments_play(desk)
    controls_and_picture_fit_and_are_named(desk)
    the_mouse_tells_and_goes(desk)
    the_picture_lives_on(desk)

    desk.after(lambda: desk.choose("clip", 2))  # another clip ...
    chosen = []
    desk.after(lambda: chosen.append(desk.choose("query", 1, ".widget-select")))  # ... and query
    assert desk.numbers.startswith(chosen[0].partition(": ")[2])
    for _ in range(2):
        desk.press("tIoU >", "ArrowRight")
    desk.until(lambda: "R@5 IoU=0.5" in desk.numbers, "recalls at 0.5")
    desk.rest()  # the picture, which may or may not be another one, comes after the numbers
    assert f"{strict['R@1 IoU=0.5']:.1f} %\t{strict['R@5 IoU=0.5']:.1f} %" in desk.numbers
    desk.after(lambda: desk.press("top k", "ArrowLeft"))
    assert "R@4 IoU=0.5" in desk.numbers
    desk.after(lambda: desk.press("min. score", "End"))  # the split is decoded anew
    assert " of 1\t" in desk.numbers  # the best point answers where nothing is above it
    desk.after(lambda: desk.choose("second run", 1))
    assert "scratch" in desk.numbers
    ask = desk.control(".widget-text", "ask").locator("input")
    ask.fill("Where is <b>my</b> $\\frac{$ hat?")
    desk.after(lambda: ask.press("Enter"))
    assert desk.numbers.startswith("Where is <b>my</b> $\\frac{$ hat?")

    desk.rest()
    desk.save()
    picture = desk.content()
    desk.until(lambda: picture in saved_pictures(notebook), "the picture in the saved file")
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    page.close()
    offline_page_shows(notebook, picture, browser, tmp_path)


def keys_stay_in_the_controls(desk: Desk) -> None:
    """Keys that are commands of JupyterLab (another cell, cut, delete) do nothing on a list, a button or a slider."""
    cells, rows = desk.page.locator(".jp-Cell"), desk.control(".widget-select", "query").locator("select")
    count, first = cells.count(), rows.input_value()
    handle = desk.control(".widget-slider, .widget-inline-hbox", "top k").first.locator(".noUi-handle")
    for control in (rows, desk.cell.get_by_role("button", name="next"), handle):
        control.focus()
        for key in ("a", "b", "x", "d", "d"):
            control.press(key)
    desk.rest()
    assert cells.count() == count
    rows.select_option(index=0)
    desk.rest()
    rows.press("ArrowDown")
    is_next = "list => list === document.activeElement && list.selectedIndex === 1"
    desk.until(lambda: rows.evaluate(is_next), "the next row, not the next cell")
    rows.select_option(first)
    desk.rest()


def both_moments_play(desk: Desk) -> None:
    """Each under a title that says which one it is, until another query is shown."""
    desk.cell.get_by_role("button", name="play the moments").click()
    players = desk.cell.locator("video")
    desk.until(lambda: players.evaluate_all("all => all.map(v => v.readyState >= 2)") == [True, True], "two videos")
    titles = desk.cell.locator(".widget-vbox", has=desk.page.locator("video")).last.locator("..").inner_text()
    assert re.search(r"true moment: [\d.]+ – [\d.]+ s.*answer 1: [\d.]+ – [\d.]+ s, tIoU", titles, re.DOTALL)
    desk.cell.get_by_role("button", name="next").click()
    after = desk.cell.locator(".widget-vbox", has=desk.page.locator("video")).last.locator("..")
    desk.until(lambda: players.count() == 2 and after.inner_text() != titles, "the videos of the next query")
    desk.cell.get_by_role("button", name="play the moments").click()
    desk.until(lambda: players.count() == 0, "no video")


def controls_and_picture_fit_and_are_named(desk: Desk) -> None:
    """On a small screen all is in sight; a wide one is used, a sharp one, too, in the colours of its theme."""
    desk.rest()
    box = desk.cell.locator(".groundnlq-panel").bounding_box()
    assert box["height"] <= CELLS_PX
    assert desk.image.bounding_box()["width"] > 0.6 * box["width"]
    size = "i => [i.naturalWidth, i.width]"
    desk.until(lambda: abs(1 - np.divide(*desk.image.evaluate(size))) < 0.03, "a pixel for each of the page")
    dark = "document.body.dataset.jpThemeLight = 'false'"
    desk.after(lambda: desk.page.evaluate(dark))
    assert plt.imread(BytesIO(base64.b64decode(desk.content())))[2, 2, :3].max() < 0.2
    desk.after(lambda: desk.page.evaluate(dark.replace("false", "true")))
    handle = desk.control(".widget-slider, .widget-inline-hbox", "tIoU >").first.locator(".noUi-handle")
    assert [handle.get_attribute(f"aria-{name}") for name in ("label", "valuetext")] == ["tIoU >", "0.3"]
    sigma = desk.control(".widget-slider, .widget-inline-hbox", "NMS sigma").first
    assert (
        sigma.locator(".noUi-handle").get_attribute("aria-valuetext") == sigma.locator(".widget-readout").inner_text()
    )


def the_mouse_tells_and_goes(desk: Desk) -> None:
    """The numbers of the first answer are told where its bar is, and a click goes there."""
    words = desk.cell.locator(".groundnlq-words")
    box, steps = desk.image.bounding_box(), range(100, 950, 5)
    options = desk.control(".widget-select", "go to").locator("option").all_inner_texts()
    (answer,) = [text for text in (option.replace("\xa0", " ") for option in options) if text.startswith("1: ")]
    y = box["y"] + 100 * (0.28 + 0.03 + 1.5 * 0.195)  # of the first answer, in inches from the top
    for x in steps:
        desk.page.mouse.move(box["x"] + x, y)
        if words.is_visible() and words.inner_text() == answer:
            break
    else:
        pytest.fail(f"{answer} is nowhere told")
    desk.after(lambda: desk.page.mouse.click(box["x"] + x, y))
    assert desk.control(".widget-select", "go to").locator("select").input_value() == answer
    desk.until(lambda: desk.cell.locator("video").count() == 2, "both moments played")
    desk.cell.get_by_role("button", name="play the moments").click()
    desk.after(lambda: desk.choose("go to", 0, ".widget-select"))


def the_picture_lives_on(desk: Desk) -> None:
    """After the cell was cut and put back, and after the page was loaded again, the picture is the present one."""
    desk.cell.locator(".cm-content").click()
    desk.page.keyboard.press("Escape")
    cells = desk.page.locator(".jp-Cell").count()
    desk.page.keyboard.press("x")
    desk.until(lambda: desk.page.locator(".jp-Cell").count() == cells - 1, "a cell less")
    desk.page.keyboard.press("z")
    desk.image.wait_for()
    desk.after(lambda: desk.cell.get_by_role("button", name="next").click())
    desk.rest()
    assert desk.agrees()
    desk.save()
    desk.page.reload()
    desk.image.wait_for()
    desk.rest()
    assert desk.agrees()
    desk.after(lambda: desk.cell.get_by_role("button", name="next").click())
    desk.rest()
    assert desk.agrees()
    assert desk.cell.locator(".jp-RenderedImage:visible").count() == 0  # the copy, which may be of an earlier query
    desk.run_all()
    desk.rest()


def test_a_person_asks_a_video_in_jupyterlab_and_the_player_goes_to_the_answer(lab, browser, tmp_path):
    address, root = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    desk = Desk(page)
    page.goto(address(OWN_VIDEO))
    desk.run_all()
    ask = desk.control(".widget-text", "question").locator("input")
    ask.fill("Where was <b>the</b> $\\frac{ red circle?")
    ask.press("Enter")
    answers = page.frame_locator("iframe[title=answers]")
    answers.locator("h2", has_text="Where was <b>the</b> $\\frac{ red circle?").wait_for()
    assert answers.locator("h2").count() == 2  # the second one is compared with
    button = answers.locator("button").nth(2)
    start_sec, end_sec = (float(button.get_attribute(f"data-{end}")) for end in ("start", "end"))
    button.click()
    player = answers.locator("video")
    desk.rest()
    assert player.evaluate("v => v.readyState") >= 2
    assert start_sec - 0.1 <= player.evaluate("v => v.currentTime") <= end_sec + 5
    assert answers.locator("output").inner_text().startswith("at 0:")
    desk.cell.get_by_role("button", name="keep this answer").click()
    desk.until(lambda: "2 answers in" in desk.numbers, "two answers in the table")
    desk.save()
    desk.until(lambda: saved_pictures(root / OWN_VIDEO), "a static picture in the saved file")
    page.close()


def test_a_person_asks_at_the_front_door_and_the_answer_plays(lab, browser):
    address, _ = lab
    page = browser.new_page(viewport={"width": 1400, "height": 1100})
    desk = Desk(page)
    page.goto(address(FRONT_DOOR))
    desk.run_all()
    answers = page.frame_locator("iframe[title=answers]")
    name = desk.choose("video", 2)
    answers.locator("h1", has_text=name).wait_for()
    ask = desk.control(".widget-text", "question").locator("input")
    ask.fill("Where did I put the cup?")
    ask.press("Enter")
    answers.locator("h2", has_text="Where did I put the cup?").wait_for()
    assert answers.locator("button").count() == 5
    button = answers.locator("button").first
    start_sec, end_sec = (float(button.get_attribute(f"data-{end}")) for end in ("start", "end"))
    button.click()
    desk.rest()
    player = answers.locator("video")
    assert player.evaluate("v => v.readyState") >= 2
    assert start_sec - 0.1 <= player.evaluate("v => v.currentTime") <= end_sec + 5
    page.close()


def saved_pictures(notebook: Path) -> list[str]:
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except json.JSONDecodeError:  # JupyterLab is writing it just now
        return []
    data = [output.get("data", {}) for cell in cells for output in cell.get("outputs", ())]
    return ["".join(d["image/png"]).replace("\n", "") for d in data if "image/png" in d]


def offline_page_shows(notebook: Path, picture: str, browser, folder: Path) -> None:
    """Exported to one HTML file and opened without any network, the picture is there."""
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--output-dir", str(folder), str(notebook)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto((folder / notebook.name).with_suffix(".html").as_uri(), wait_until="domcontentloaded")
    widths = page.evaluate(
        "picture => [...document.images].filter(i => i.src.replaceAll(/\\s|%0A/g, '').endsWith(picture))"
        ".map(i => i.offsetParent && i.alt && i.naturalWidth)",
        picture,
    )
    assert widths
    assert page.evaluate("[...document.images].filter(i => !i.alt).length") == 0
    assert min(widths) > 500
    context.close()
