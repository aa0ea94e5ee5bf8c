"""The page "AtScale builds" of Airflow 3.1 and newer in a browser: light and dark, few models, many, and none."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from environments import ROOT, Target, environment, make
from local import run, step
from pages import NotAsExpectedError, check

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

    from playwright.sync_api import Browser, FrameLocator, Page

DATA = ROOT / "tests" / "dags" / "builds_data.py"
ROUTE = "/plugin/atscale_builds"
SERVER = "https://atscale.example.com"
#: The pictures of the documentation.
KEPT = {("builds-page", "light"), ("builds-model", "dark")}


@dataclass(frozen=True)
class BuildsSite:
    """
    An Airflow whose database has builds.

    :param target: The Airflow version and the Python.
    :param name: What to call it.
    :param models: How many models have builds.
    :param path: The path of Airflow's address.
    :param keeps_pictures: Whether its pictures are those of the documentation.
    """

    target: Target
    name: str
    models: int
    path: str = ""
    keeps_pictures: bool = False


BUILDS_SITES = (
    BuildsSite(Target("3.3", "3.13"), "few", 7, keeps_pictures=True),
    BuildsSite(Target("3.3", "3.13"), "none", 0),
    BuildsSite(Target("3.3", "3.13"), "many", 500),
    BuildsSite(Target("3.2", "3.13"), "few", 7, path="/team/airflow"),
    BuildsSite(Target("3.1", "3.13"), "few", 7),
)


def look_at_builds(
    site: BuildsSite,
    wheel: Path,
    browser: Browser,
    images: Path,
    settings: Callable[[str, Path], Mapping[str, str]],
    serve: Callable[..., AbstractContextManager[None]],
    port: int,
) -> None:
    """
    Start a site, look at its page of builds, and end it.

    :param site: The site.
    :param wheel: The package.
    :param browser: The browser.
    :param images: Where pictures of the documentation go.
    :param settings: Returns the settings of an Airflow.
    :param serve: Runs a command of Airflow.
    :param port: The port of its API server.
    """
    step(f"Airflow {site.target.version}, builds of {site.name} models")
    make(site.target, wheel)
    home = site.target.folder / f"builds-{site.name}"
    shutil.rmtree(home, ignore_errors=True)
    (home / "dags").mkdir(parents=True)
    address = f"http://127.0.0.1:{port}{site.path}"
    env = environment(site.target, home) | settings(address, home) | {"AIRFLOW__API__PORT": str(port)}
    run([str(site.target.bin / "airflow"), "db", "migrate"], env, home / "migrate.log")
    if site.models:
        command = [str(site.target.bin / "python"), str(DATA), "--models", str(site.models)]
        run(command, env, home / "data.log")
    with serve(env, home, f"{address}/api/v2/version", "api-server"):
        pages = BuildsPages(browser, address, home, images if site.keeps_pictures else None)
        for theme in ("light", "dark"):
            pages.walk(theme, site.models)


class BuildsPages:
    """
    The page as a person uses it.

    :param browser: The browser.
    :param address: Airflow's address.
    :param home: Airflow's home, which gets all pictures.
    :param images: Where pictures of the documentation go; None if these are not for it.
    """

    def __init__(self, browser: Browser, address: str, home: Path, images: Path | None) -> None:
        self._browser = browser
        self._address = address
        self._home = home
        self._images = images
        self._page: Page

    @property
    def _frame(self) -> FrameLocator:
        return self._page.frame_locator("iframe")

    def walk(self, theme: str, models: int) -> None:
        """
        Open the page from the menu, look at it, and follow its links.

        :param theme: Airflow's theme; the system's is the other one.
        :param models: How many models have builds.
        """
        system = "dark" if theme == "light" else "light"
        context = self._browser.new_context(viewport={"width": 1344, "height": 820}, color_scheme=system)
        context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
        here, hosts = urlsplit(self._address).netloc, set()
        # A picture inside the text of a page has an address without host.
        context.on("request", lambda request: hosts.add(urlsplit(request.url).netloc or here))
        self._page = context.new_page()
        self._page.set_default_timeout(60_000)
        try:
            self._open()
            self._check_theme(theme)
            self._picture("builds-page", theme)
            if models:
                self._check_models(models)
                self._show_model(theme)
                check(hosts == {here}, f"the page asked other hosts: {hosts}")
                self._follow_links()
            else:
                self._frame.get_by_text("No builds yet").wait_for()
        except Exception:
            self._page.screenshot(path=self._home / "wrong.png")
            raise
        finally:
            context.close()

    def _open(self) -> None:
        self._page.goto(self._address + "/")
        self._page.get_by_role("button", name="Browse").first.click()
        self._page.get_by_role("menuitem", name="AtScale builds").click()
        self._frame.get_by_role("heading", name="AtScale builds").wait_for()
        check(ROUTE in self._page.url, f"the menu leads to {self._page.url}")
        self._page.wait_for_timeout(1000)

    def _check_theme(self, theme: str) -> None:
        color = self._frame.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        is_light = min(int(part) for part in color.removeprefix("rgb(").rstrip(")").split(",")) > 127
        check(is_light is (theme == "light"), f"the page is {color}, but Airflow is {theme}")

    def _check_models(self, models: int) -> None:
        rows = self._frame.locator("table.models tbody tr")
        check(rows.count() == min(models, 50), f"{rows.count()} models are shown")
        if models > 50:
            self._frame.get_by_role("link", name="Next").click()
            self._frame.get_by_text("Page 2 of").wait_for()
        search = self._frame.get_by_role("searchbox")
        search.fill("internet")
        search.press("Enter")
        self._page.frames[-1].wait_for_url(lambda url: "q=internet" in url)
        self._frame.get_by_role("link", name="Internet Sales").first.wait_for()
        check("Budget" not in self._frame.locator("main").inner_text(), "the search finds too much")

    def _show_model(self, theme: str) -> None:
        self._frame.get_by_role("link", name="Internet Sales").first.click()
        self._frame.get_by_text("Table not found").first.wait_for()
        self._frame.locator("table.builds").wait_for()
        self._page.wait_for_timeout(500)
        self._picture("builds-model", theme)

    def _follow_links(self) -> None:
        """Follow the links that the frame's sandbox would block."""
        # Nothing answers there, so the tab's address is what can be known.
        self._page.context.route(f"{SERVER}/**", lambda route: route.fulfill(body="AtScale"))
        with self._page.context.expect_page() as opened:
            self._frame.get_by_role("link", name="Build history in AtScale").first.click()
        opened.value.wait_for_load_state()
        check(opened.value.url.startswith(SERVER), f"the link leads to {opened.value.url}")
        link = self._frame.locator("a.out[target=_top]").first
        path = str(link.get_attribute("href"))
        link.click()
        self._page.wait_for_url(lambda url: urlsplit(url).path == path)
        if self._page.locator("iframe").count():
            raise NotAsExpectedError("the task opens inside the frame")

    def _picture(self, name: str, theme: str) -> None:
        self._page.screenshot(path=self._home / f"{name}-{theme}.png")
        if self._images is not None and (name, theme) in KEPT:
            self._page.set_viewport_size({"width": 1200, "height": 600})
            self._page.wait_for_timeout(500)
            self._page.screenshot(path=self._images / f"{name}.png")
