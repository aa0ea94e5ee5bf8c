"""
Check the provider in a browser, and make the pictures that the documentation shows.

A real Airflow 3.3 and a real Airflow 2.11, each with a local AtScale engine. In each the browser opens the
connection form of type AtScale, checks every field's label, placeholder and help, fills it, tests the
connection, saves it, runs an example DAG, opens the task and follows its link to the build history. The
script ends with an error at the first difference; use the pictures in ``docs/images/`` only if it ends without.
Then the page "AtScale builds" of Airflow 3.1 to 3.3, light and dark, with few models, many, and none.

    python scripts/screenshots.py                 # all, ten minutes
    python scripts/screenshots.py --only 2.11
    python scripts/screenshots.py --only builds   # only the page "AtScale builds"

Needs Chromium (Debian: ``apt-get install chromium``); another one is named with ``--browser``.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from environments import REQUIREMENTS, ROOT, VENVS, Target, build_wheel, environment, find_uv, make
from local import LOCAL_HOST, end, engine, say, step

if TYPE_CHECKING:
    from playwright.sync_api import Browser

IMAGES = ROOT / "docs" / "images"
#: What headless Chromium needs in a container, and what keeps it from asking other hosts.
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@dataclass(frozen=True)
class Site:
    """
    An Airflow to look at.

    :param target: The Airflow version and the Python.
    :param dag_file: The example that is run.
    :param prefix: How its pictures' names begin.
    """

    target: Target
    dag_file: str
    prefix: str


SITES = (
    Site(Target("3.3", "3.13"), "example_atscale_build_after_etl.py", ""),
    Site(Target("2.11", "3.10"), "example_atscale_airflow2.py", "airflow2-"),
)

#: What the page of builds is called among the sites.
BUILDS = "builds"


def main() -> int:
    """Look at all sites."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[*(site.target.airflow for site in SITES), BUILDS])
    parser.add_argument("--browser", default=shutil.which("chromium") or "/usr/bin/chromium")
    options = parser.parse_args()
    if not Path(options.browser).exists():
        sys.exit(f"There is no browser {options.browser}: apt-get install chromium, or name one with --browser")
    install_playwright()
    from builds_pages import BUILDS_SITES, look_at_builds
    from playwright.sync_api import sync_playwright

    wheel = build_wheel(VENVS / "dist")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser, args=list(ARGUMENTS))
        for site in SITES:
            if options.only in (None, site.target.airflow):
                look_at(site, wheel, browser)
        for each in BUILDS_SITES if options.only in (None, BUILDS) else ():
            look_at_builds(each, wheel, browser, IMAGES, settings, running, free_port())
        browser.close()
    say(f"\nAll is as it should be; the pictures are in {IMAGES.relative_to(ROOT)}/")
    return 0


def install_playwright() -> None:
    """Install Playwright, which drives the browser, unless it is installed."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        command = [find_uv(), "pip", "install", "--quiet", "--python", sys.executable]
        subprocess.run([*command, "-r", str(REQUIREMENTS / "browser.txt")], check=True)


def look_at(site: Site, wheel: Path, browser: Browser) -> None:
    """
    Start a site, look at it, and end it.

    :param site: The site.
    :param wheel: The package.
    :param browser: The browser.
    """
    from pages import Airflow2, Airflow3

    step(f"Airflow {site.target.version} on Python {site.target.python}")
    make(site.target, wheel)
    home = site.target.folder / "screenshots"
    shutil.rmtree(home, ignore_errors=True)
    (home / "dags").mkdir(parents=True)
    for name in (site.dag_file, "internet_sales.csv"):
        shutil.copy(ROOT / "example_dags" / name, home / "dags" / name)
    address = f"http://{LOCAL_HOST}:{free_port()}"
    env = environment(site.target, home) | settings(address, home)
    kind = Airflow3 if site.target.airflow.startswith("3") else Airflow2
    with (
        engine("container", env, home, "--port", "0", "--build-seconds", "6") as (history, _),
        running(env, home, address + kind.ready),
    ):
        kind(browser, address, IMAGES, site.prefix, home).walk(history, site.dag_file.removesuffix(".py"))


def settings(address: str, home: Path) -> dict[str, str]:
    """
    Return the settings of an Airflow for one person, of whichever version.

    :param address: Its address.
    :param home: Its home.
    """
    port = str(urlsplit(address).port)
    return {
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        # Everybody is admin, so nothing but this machine may reach it.
        "AIRFLOW__API__HOST": LOCAL_HOST,
        "AIRFLOW__API__PORT": port,
        "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/",
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": LOCAL_HOST,
        "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": port,
        "AIRFLOW__WEBSERVER__BASE_URL": address,
        "AIRFLOW__WEBSERVER__WORKERS": "2",
        "ATSCALE_EXAMPLE_FOLDER": str(home),
    }


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listener:
        listener.bind((LOCAL_HOST, 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(env: dict[str, str], home: Path, ready: str, what: str = "standalone") -> Iterator[None]:
    """
    Run a whole Airflow, or a part of it.

    :param env: Its environment variables.
    :param home: Its home, which gets its output.
    :param ready: An address that answers as soon as the web server is up.
    :param what: The command of Airflow.
    """
    command = [shutil.which("airflow", path=env["PATH"]) or "airflow", what]
    with (home / "airflow.log").open("w") as out:
        process = subprocess.Popen(
            command, env=env, stdout=out, stderr=subprocess.STDOUT, cwd=home, start_new_session=True
        )
    try:
        wait_until_up(process, ready, home)
        yield
    finally:
        end(process)


def wait_until_up(process: subprocess.Popen[bytes], ready: str, home: Path) -> None:
    """
    Wait until the web server answers.

    :param process: Airflow.
    :param ready: The address to ask.
    :param home: Airflow's home.
    """
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(ready, timeout=5)
            return
        time.sleep(1)
    sys.exit(f"Airflow did not come up; its output is in {home / 'airflow.log'}")


if __name__ == "__main__":
    sys.exit(main())
