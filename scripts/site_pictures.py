"""
Take pictures of the documentation: five pages, light and dark, and narrow as on a telephone.

    make docs && .venv/bin/python scripts/site_pictures.py

The pictures go to ``build/site-pictures/``. Needs Chromium (Debian: ``apt-get install chromium``).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from screenshots import ARGUMENTS, install_playwright

ROOT = Path(__file__).parent.parent
SITE = ROOT / "build" / "docs"
PICTURES = ROOT / "build" / "site-pictures"
PAGES = ("index", "get-started", "howto/operator", "guarantees", "architecture")
#: Name, colour scheme, width.
KINDS = (("light", "light", 1280), ("dark", "dark", 1280), ("narrow", "light", 390))


def main() -> int:
    """Take all pictures; complain about a page that is wider than its window."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", default=shutil.which("chromium") or "/usr/bin/chromium")
    parser.add_argument("pages", nargs="*", default=PAGES)
    options = parser.parse_args()
    if not (SITE / "index.html").exists():
        sys.exit("There is no site: run make docs")
    install_playwright()
    from playwright.sync_api import sync_playwright

    PICTURES.mkdir(parents=True, exist_ok=True)
    wide = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=list(ARGUMENTS))
        for name, scheme, width in KINDS:
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            for each in options.pages:
                page.goto((SITE / f"{each}.html").as_uri())
                page.screenshot(path=PICTURES / f"{each.replace('/', '-')}-{name}.png")
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    wide.append(f"{each} ({name})")
        browser.close()
    print(f"The pictures are in {PICTURES.relative_to(ROOT)}/")
    if wide:
        print(f"Wider than the window: {', '.join(wide)}")
    return bool(wide)


if __name__ == "__main__":
    raise SystemExit(main())
