#!/usr/bin/env python3
"""Opens a report in headless Chromium and uses it as a reader would: clicks a legend entry, sorts and
filters a table, asks for values with mouse and keyboard, in light and dark and at a phone's width.

    python3 -m venv venv && venv/bin/pip install playwright     # and Debian's chromium
    venv/bin/python scripts/browser_test.py results/NAME/REPORT.html [--screenshots DIR]

Exits with 1 when something does not work, when the page asks the network for anything, or when it is wider
than the window.
"""

import argparse
import pathlib
import re
import shutil
import sys

from playwright.sync_api import sync_playwright

failures = []


def check(holds, what):
    print("ok  " if holds else "FAIL", what)
    if not holds:
        failures.append(what)


def numbers(page, table, column):
    cells = page.eval_on_selector_all(
        f"#{table} tbody tr", f"rows => rows.map(r => r.cells[{column}].textContent)")
    found = [re.match(r"[>~]?\s*(-?[\d.]+(?:e[-+]?\d+)?)\s*([kMG]?)", cell) for cell in cells]
    scale = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
    return [float(m.group(1)) * scale[m.group(2)] for m in found if m]


def use(page):
    # A figure that has values: not so where every trial diverged.
    figure = page.locator('figure:has(.key):has(svg.plot:not([data-hits=""]))').first
    if figure.count():
        key = figure.locator(".key").first
        groups = figure.locator('svg.plot g[data-s="0"]')
        check(groups.count() > 0 and groups.first.is_visible(), "a series is drawn")
        key.click()
        check(not groups.first.is_visible(), "a click on its legend entry hides it")
        check(key.get_attribute("aria-pressed") == "false", "the entry says so")
        key.focus()
        page.keyboard.press("Enter")
        check(groups.first.is_visible(), "Enter shows it again")
        svg = figure.locator("svg.plot")
        svg.focus()
        page.keyboard.press("ArrowRight")
        first = page.locator("#tip").inner_text()
        page.keyboard.press("ArrowRight")
        check(len(first) > 3 and page.locator("#tip").inner_text() != "", f"arrow keys tell values: {first!r}")
        page.keyboard.press("Escape")
        svg.scroll_into_view_if_needed()
        x, y, _, text = svg.get_attribute("data-hits").split("\n")[0].split("\t")
        box, view = svg.bounding_box(), svg.get_attribute("viewBox").split()
        page.mouse.move(box["x"] + float(x) / float(view[2]) * box["width"],
                        box["y"] + float(y) / float(view[3]) * box["height"])
        check(page.locator("#tip.on").count() == 1, "the mouse asks for a value")
    # The first table with a column of numbers and rows to sort.
    place = page.evaluate("""() => [...document.querySelectorAll("table")].findIndex(t =>
        t.tBodies[0].rows.length > 2 && t.querySelector("thead th.n") && !t.closest("details.long"))""")
    if place >= 0:
        page.evaluate("i => document.querySelectorAll('table')[i].id = 'sorted'", place)
        column = page.evaluate("() => [...document.querySelectorAll('#sorted thead th')].findIndex(t => t.matches('.n'))")
        button = page.locator("#sorted thead button").nth(column)
        before = numbers(page, "sorted", column)
        button.click()
        check(numbers(page, "sorted", column) == sorted(before), "a click sorts a table upwards")
        button.click()
        check(numbers(page, "sorted", column) == sorted(before, reverse=True), "a second one downwards")
        head = page.locator("#sorted thead th").nth(column)
        check(head.get_attribute("aria-sort") == "descending", "the column says so")
        button.click()
        check(numbers(page, "sorted", column) == before, "a third one restores the order")
    if page.locator(".filter input:visible").count():
        box = page.locator(".filter input:visible").first
        box.fill("nothing-like-this")
        rows = page.evaluate("""() => { const f = [...document.querySelectorAll(".filter")].find(f => f.offsetParent);
            return [...f.nextElementSibling.querySelectorAll("tbody tr")].filter(r => !r.matches(".off")).length }""")
        check(rows == 0, "a filter hides rows")
        box.fill("")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("report", type=pathlib.Path)
    arguments.add_argument("--screenshots", type=pathlib.Path)
    options = arguments.parse_args()
    page_url = options.report.resolve().as_uri()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        looks = [("light", "light", 1280, 900), ("dark", "dark", 1280, 900),
                 ("phone", "light", 375, 800), ("phone-dark", "dark", 375, 800)]
        for name, scheme, width, height in looks:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            asked, errors = [], []
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("dialog", lambda dialog: (errors.append("dialog"), dialog.dismiss()))
            page.goto(page_url)
            if options.screenshots:
                options.screenshots.mkdir(parents=True, exist_ok=True)
                page.screenshot(path=options.screenshots / f"{name}.png", full_page=True)
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            check(wide <= 0, f"{name}: the page is no wider than the window")
            unnamed = page.evaluate("""() => [...document.querySelectorAll("button,svg[role=img],[role=region]")]
                .filter(e => !e.closest("[aria-hidden]") && !(e.textContent.trim() || e.getAttribute("aria-label"))).length""")
            check(unnamed == 0, f"{name}: everything that can be used has a name")
            if name == "light":
                use(page)
                if options.screenshots:
                    page.pdf(path=options.screenshots / "print.pdf", format="A4")
            check(asked == [page_url], f"{name}: nothing is fetched")
            check(not errors, f"{name}: no error in the console {errors}")
            page.close()
        browser.close()
    sys.exit(1 if failures else 0)


main()
