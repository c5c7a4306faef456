"""The page of a report in a real browser, without a network: it sorts, filters and compares."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from tests.report.test_write import make_run

from debeton.report.page import Cell, Page, html_comparison, html_table
from debeton.report.write import write_report

ROWS = [
    ("erm · lr 0.1", 71.5),
    ("erm · lr 0.01", 68.25),
    ("groupdro · lr 0.1", 88.0),
    ("dfr", None),
    ("jtt", 70.0),
    ("lff · lr 0.1", 9.5),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    """Start headless Chromium, which can reach only local files."""
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("needs Chromium and its driver (Debian's chromium and chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for word in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1280,1000",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield chrome
    chrome.quit()


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory) -> webdriver.Chrome:
    """Open a page with a sortable table of six rows and a comparison of three runs."""
    document = Page("a <report>", "six settings")
    cells = [[Cell(name), Cell("–" if value is None else f"{value:.1f}", (value,))] for name, value in ROWS]
    document.add("Accuracy", html_table(["setting", "worst-group"], cells))
    document.add(
        "Compare",
        html_comparison(
            ["training.lr", "training.seed", "data.note"],
            [("a", ["0.1", "0", "</script><b>x</b>"]), ("b", ["0.1", "1", "none"]), ("c", ["0.1", "0", "none"])],
        ),
    )
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(document.render(), encoding="utf-8")
    browser.get(path.as_uri())
    return browser


def table(page: webdriver.Chrome, number: int) -> list[list[str]]:
    """Return the visible rows of a table as a reader sees them."""
    rows = page.find_elements(By.TAG_NAME, "table")[number].find_elements(By.CSS_SELECTOR, "tbody tr")
    return [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")] for row in rows if row.is_displayed()]


def header(page: webdriver.Chrome, name: str) -> WebElement:
    return next(button for button in page.find_elements(By.CSS_SELECTOR, "th button") if button.text == name)


def test_a_click_on_a_header_sorts_by_value_with_missing_values_last(page):
    header(page, "worst-group").click()
    assert [row[1] for row in table(page, 0)] == ["9.5", "68.2", "70.0", "71.5", "88.0", "–"]
    header(page, "worst-group").click()
    assert [row[1] for row in table(page, 0)] == ["88.0", "71.5", "70.0", "68.2", "9.5", "–"]
    header(page, "setting").click()
    assert [row[0] for row in table(page, 0)] == [
        "dfr",
        "erm · lr 0.01",
        "erm · lr 0.1",
        "groupdro · lr 0.1",
        "jtt",
        "lff · lr 0.1",
    ]


def test_the_filter_keeps_rows_with_every_word(page):
    box = page.find_element(By.CSS_SELECTOR, "input[type=search]")
    box.send_keys("ERM 0.01")
    assert [row[0] for row in table(page, 0)] == ["erm · lr 0.01"]
    assert page.find_element(By.CSS_SELECTOR, ".tools span").text == "1 of 6 rows"
    box.clear()
    box.send_keys('"lr 0.1"')
    assert sorted(row[0] for row in table(page, 0)) == ["erm · lr 0.1", "groupdro · lr 0.1", "lff · lr 0.1"]
    box.clear()
    box.send_keys(" ")
    assert len(table(page, 0)) == 6


def test_the_comparison_shows_the_keys_that_differ_and_escapes_their_text(page):
    assert table(page, 1) == [["training.seed", "0", "1"], ["data.note", "</script><b>x</b>", "none"]]
    selects = page.find_elements(By.TAG_NAME, "select")
    selects[0].send_keys("c")
    assert table(page, 1) == [["training.seed", "0", "1"]]
    assert [head.text for head in page.find_elements(By.CSS_SELECTOR, ".comparison th")] == ["key", "c", "b"]
    selects[1].send_keys("c")
    assert table(page, 1) == [["the same configuration"]]


def test_a_whole_report_opens_without_browser_errors_and_shows_its_figures(browser, finished_report):
    browser.get(finished_report.as_uri())
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    widths = browser.execute_script("return [...document.images].map(image => image.naturalWidth)")
    assert len(widths) >= 3
    assert min(widths) > 100
    # Nothing sticks out of the window to the side, and tables scroll in their own boxes.
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert np.all([row[0] for row in table(browser, 0)])


@pytest.fixture
def finished_report(tmp_path: Path) -> Path:
    for method, worst in (("erm", 0.6), ("groupdro", 0.85)):
        for seed in range(2):
            make_run(tmp_path / "runs", method, seed, worst=worst)
    return write_report([tmp_path / "runs"], tmp_path / "report")
