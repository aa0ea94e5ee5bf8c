"""The pages of Airflow 2 and 3 from a connection to a build and its history, as a person uses them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow_provider_atscale.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR
from airflow_provider_atscale.testing.client import EngineControl
from airflow_provider_atscale.testing.core import API_TOKEN

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CONNECTION = "atscale_default"
TASK = "build_aggregates"
LINK = "AtScale Build History"
#: Seconds that a DAG run may take.
PATIENCE = 300


class NotAsExpectedError(AssertionError):
    """A page is not as it should be; the text says what is different."""


def check(condition: Any, complaint: str) -> None:
    """
    Raise an error unless something is as it should be.

    :param condition: What should be true.
    :param complaint: The text of the error.
    """
    if not condition:
        raise NotAsExpectedError(complaint)


class Airflow:
    """
    What the pages of both major versions have in common.

    :param browser: The browser.
    :param address: Airflow's address.
    :param images: Where pictures go.
    :param prefix: How their names begin.
    :param home: Airflow's home.
    """

    ready = ""
    api = ""
    #: Which pictures are kept; the others would only repeat them.
    kept: tuple[str, ...] = ()

    def __init__(self, browser: Browser, address: str, images: Path, prefix: str, home: Path) -> None:
        self.page: Page = browser.new_page(viewport={"width": 1200, "height": 850})
        self.page.set_default_timeout(60_000)
        self.address = address
        self.home = home
        self._images = images
        self._prefix = prefix

    def walk(self, engine: str, dag_id: str) -> None:
        """
        Fill the form, test the connection, run the DAG, follow the link.

        :param engine: Address of the local AtScale engine.
        :param dag_id: The DAG to run.
        """
        try:
            self.log_in()
            self.fill_form(engine)
            self.save_and_test()
            run_id = self.run(dag_id)
            self.show_grid(dag_id, run_id)
            self.follow_link(dag_id, run_id)
            self.show_state_store(dag_id, run_id)
            self.show_logs(dag_id, run_id, engine)
        except Exception:
            self.page.screenshot(path=self.home / "wrong.png")
            raise
        finally:
            self.page.context.close()

    def log_in(self) -> None:
        """Log in if Airflow asks for it."""

    def show_state_store(self, dag_id: str, run_id: str) -> None:
        """Look at what a retry would know, if this Airflow has a page for it."""

    def show_logs(self, dag_id: str, run_id: str, engine: str) -> None:
        """Look at the progress and the log of a build, and at the log of one that fails."""

    def fill_form(self, engine: str) -> None:
        """Open the form, check each field, and fill it."""
        raise NotImplementedError

    def save_and_test(self) -> None:
        """Save the connection, and try it."""
        raise NotImplementedError

    def trigger(self, dag_id: str) -> None:
        """Press what starts the DAG."""
        raise NotImplementedError

    def open_run(self, dag_id: str, run_id: str) -> None:
        """Open the grid with a run."""
        raise NotImplementedError

    def open_task(self, dag_id: str, run_id: str) -> Locator:
        """Open the details of the build, and return the link to AtScale."""
        raise NotImplementedError

    def go(self, path: str) -> None:
        """Open a page, and wait until it has loaded what it loads."""
        self.page.goto(self.address + path)
        self.page.wait_for_load_state("networkidle")

    def ask(self, path: str) -> Any:
        """Read from Airflow's API, as the logged-in user."""
        answer = self.page.request.get(f"{self.address}{self.api}{path}")
        check(answer.ok, f"{path} answered {answer.status}: {answer.text()}")
        return answer.json()

    def picture(self, name: str, what: Page | Locator | None = None) -> None:
        """Keep a picture of the page, or of a part of it."""
        if name in self.kept:
            (what or self.page).screenshot(path=self._images / f"{self._prefix}{name}.png")

    def run(self, dag_id: str) -> str:
        """Start the DAG, wait for its end, and return the run's id; all its tasks must be green."""
        self.trigger(dag_id)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            self.page.wait_for_timeout(1000)
            runs = self.ask(f"/dags/{dag_id}/dagRuns")["dag_runs"]
            if runs and runs[0]["state"] in ("success", "failed"):
                break
        else:
            raise NotAsExpectedError(f"{dag_id} did not end within {PATIENCE} s")
        run_id: str = runs[0]["dag_run_id"]
        tasks = self.ask(f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances")["task_instances"]
        states = {task["task_id"]: task["state"] for task in tasks}
        check(set(states.values()) == {"success"}, f"not all tasks are green: {states}")
        return run_id

    def show_grid(self, dag_id: str, run_id: str) -> None:
        """Keep a picture of the grid with the green run."""
        self.open_run(dag_id, run_id)
        self.page.get_by_text(TASK).first.wait_for()
        self.page.wait_for_timeout(1000)
        self.picture("grid")

    def follow_link(self, dag_id: str, run_id: str) -> None:
        """Follow the task's link, and check that it leads to the task's batch."""
        xcom = f"/dags/{dag_id}/dagRuns/{quote(run_id)}/taskInstances/{TASK}/xcomEntries/return_value"
        batch_id = str(self.ask(xcom)["value"]).strip("\"'")
        link = self.open_task(dag_id, run_id)
        link.wait_for()
        self.page.wait_for_timeout(1000)
        self.picture("task-link")
        with self.page.context.expect_page() as opened:
            link.click()
        history = opened.value
        history.wait_for_load_state()
        check(history.title() == "Build history", f"the link leads to {history.url}, {history.title()!r}")
        shown = history.locator("body").inner_text()
        for expected in (batch_id, "Sales Insights", "Internet Sales", "done"):
            check(expected in shown, f"the build history does not show {expected!r}")
        history.set_viewport_size({"width": 1200, "height": 560})
        self.picture("build-history", history)

    # --- the form ---

    def check_standard_fields(self, form: Locator) -> None:
        """Check labels and placeholders of the fields that every connection has."""
        for name, placeholder in FIELD_BEHAVIOUR["placeholders"].items():
            field = form.locator(f"[name='{name}']")
            check(field.is_visible(), f"the form does not show the field {name!r}")
            shown = field.get_attribute("placeholder")
            check(shown == placeholder, f"the placeholder of {name!r} is {shown!r}")
            label = form.locator(f"label[for='{field.get_attribute('id')}']").inner_text().strip()
            wanted = FIELD_BEHAVIOUR["relabeling"][name]
            check(label == wanted, f"the label of {name!r} is {label!r}, not {wanted!r}")

    def check_further_fields(self, row_of: Any) -> None:
        """Check label and help of each field of this connection type."""
        for name, field in CONNECTION_FIELDS.items():
            row: Locator = row_of(name)
            row.scroll_into_view_if_needed()
            text = " ".join(row.inner_text().split())
            for part in (field["label"], field["description"]):
                check(part in text, f"the field {name!r} does not show {part!r}, but {text!r}")


class Airflow3(Airflow):
    """The pages of Airflow 3."""

    ready = "/api/v2/version"
    api = "/api/v2"
    kept = (
        "connection-form",
        "connection-fields",
        "connection-test",
        "grid",
        "task-link",
        "build-history",
        "task-state-store",
        "progress-xcom",
        "task-log",
        "task-log-failed",
    )

    def fill_form(self, engine: str) -> None:
        """Open the form, check each field, and fill it."""
        self.go("/connections")
        self.page.get_by_role("button", name="Add Connection").first.click()
        form = self.page.get_by_role("dialog")
        form.get_by_label("Connection ID").fill(CONNECTION)
        form.get_by_role("combobox").fill("AtScale")
        form.get_by_role("combobox").press("Enter")
        form.locator("[name='host']").wait_for()
        self.page.wait_for_timeout(1000)
        self.check_standard_fields(form)
        self.picture("connection-form", form)
        address = urlsplit(engine)
        # Airflow 3.3's Test button sends an empty port as 0, and Airflow refuses it: it is not the saved port.
        form.locator("[name='host']").fill(f"{address.scheme}://{address.hostname}")
        form.locator("[name='port']").fill(str(address.port))
        form.locator("[name='password']").fill(API_TOKEN)
        form.get_by_role("button", name="Extra Fields", exact=True).click()
        field = form.locator("#element_build_history_url")
        field.wait_for()
        self.page.wait_for_timeout(1000)
        self.check_further_fields(
            lambda name: form.locator(f"#element_{name}").locator("xpath=ancestor::*[@data-part='root'][1]")
        )
        form.locator("#element_edition").scroll_into_view_if_needed()
        self.page.wait_for_timeout(300)
        self.picture("connection-fields")
        field.fill(f"{engine}/_engine/history?batchId={{batch_id}}")

    def save_and_test(self) -> None:
        """Save the connection, and press Test in the list."""
        form = self.page.get_by_role("dialog")
        form.get_by_role("button", name="Save").click()
        form.wait_for(state="hidden")
        row = self.page.get_by_role("row").filter(has_text=CONNECTION)
        with self.page.expect_response(lambda answer: "connections/test" in answer.url) as tested:
            row.get_by_label("Test Connection").click()
        answer = tested.value.json()
        check(answer.get("status") is True, f"the test said {answer}")
        self.page.get_by_text("Test Connection Successful").first.wait_for()
        self.page.wait_for_timeout(500)
        self.picture("connection-test")

    def trigger(self, dag_id: str) -> None:
        """Press Trigger, and again in the dialog that it opens."""
        self.go(f"/dags/{dag_id}")
        self.page.get_by_test_id("trigger-dag-button").click()
        form = self.page.get_by_role("dialog")
        form.get_by_role("button", name="Trigger").click()
        form.wait_for(state="hidden")

    def open_run(self, dag_id: str, run_id: str) -> None:
        """Open the grid with a run."""
        self.go(f"/dags/{dag_id}/runs/{quote(run_id)}")

    def open_task(self, dag_id: str, run_id: str) -> Locator:
        """Open the details of the build, and return the link to AtScale."""
        self.go(f"/dags/{dag_id}/runs/{quote(run_id)}/tasks/{TASK}/details")
        return self.page.get_by_role("link", name=LINK)

    def show_state_store(self, dag_id: str, run_id: str) -> None:
        """Look at what a retry would know."""
        self.go(f"/dags/{dag_id}/runs/{quote(run_id)}/tasks/{TASK}/task-state-store")
        self.page.get_by_text("history_url").first.wait_for()
        self.page.wait_for_timeout(2000)
        # The editor that shows JSON has spaces of its own.
        shown = self.page.locator("body").inner_text().replace("\u00a0", " ")
        for expected in ("Internet Sales", "history_url", "done"):
            check(expected in shown, f"the task state store does not show {expected!r}")
        self.picture("task-state-store")

    def show_logs(self, dag_id: str, run_id: str, engine: str) -> None:
        """Look at the progress and the log of a build, and at the log of one that fails."""
        task = f"/dags/{dag_id}/runs/{quote(run_id)}/tasks/{TASK}"
        self.page.set_viewport_size({"width": 1344, "height": 760})
        self.go(f"{task}/xcom")
        self.page.get_by_text("progress", exact=True).first.wait_for()
        # The button beside it opens all values.
        self.page.get_by_role("button", name="Add XCom").locator("xpath=following::button[1]").click()
        self.page.wait_for_timeout(2000)
        self.page.get_by_text("progress", exact=True).first.evaluate("each => each.scrollIntoView()")
        self.page.wait_for_timeout(1000)
        self.picture("progress-xcom")
        self.show_log(task, "Building Internet Sales", "Done in")
        self.picture("task-log")
        control = EngineControl(engine)
        control.fail_next("Internet Sales", failed_aggregates=1, message="Table not found: sales_by_month")
        self.trigger(dag_id)
        runs = f"/dags/{dag_id}/dagRuns"
        until = time.monotonic() + PATIENCE
        tries = 0
        while time.monotonic() < until and not tries:
            self.page.wait_for_timeout(1000)
            newest = self.ask(f"{runs}?order_by=-run_after&limit=1")["dag_runs"][0]["dag_run_id"]
            if newest != run_id:
                instance = self.ask(f"{runs}/{quote(newest)}/taskInstances/{TASK}")
                tries = instance["try_number"] if instance["state"] in ("up_for_retry", "failed") else 0
        check(tries == 1, f"the build of {dag_id} that was to fail did not fail in its first try")
        failed = f"/dags/{dag_id}/runs/{quote(newest)}/tasks/{TASK}?try_number=1"
        self.show_log(failed, "AtScaleBatchFailedError")
        # The traceback names files of this machine.
        self.page.get_by_text("AtScaleBatchFailedError: Failed after").first.click()
        self.page.evaluate("document.querySelectorAll('*').forEach(each => each.scrollLeft = 0)")
        self.page.wait_for_timeout(1000)
        check(
            "site-packages" not in self.page.locator("body").inner_text(), "the log still shows the traceback"
        )
        self.picture("task-log-failed")

    def show_log(self, task: str, *said: str) -> None:
        """Open the log of a task, and wait until it shows some texts."""
        self.go(task)
        for text in said:
            self.page.get_by_text(text).first.wait_for()
        self.page.wait_for_timeout(1000)


class Airflow2(Airflow):
    """The pages of Airflow 2."""

    ready = "/health"
    api = "/api/v1"
    kept = ("connection-form", "task-link")

    def log_in(self) -> None:
        """Log in as the user that ``airflow standalone`` has made."""
        password = (self.home / "standalone_admin_password.txt").read_text().strip()
        self.go("/login/")
        self.page.fill("#username", "admin")
        self.page.fill("#password", password)
        self.page.locator("[type=submit]").click()
        self.page.wait_for_load_state("networkidle")

    def fill_form(self, engine: str) -> None:
        """Open the form, check each field, and fill it."""
        self.go("/connection/add")
        self.page.fill("#conn_id", CONNECTION)
        # The list that people see stands before the one that the form sends.
        self.page.select_option("#conn_type", "atscale", force=True)
        form = self.page.locator("#model_form")
        form.locator("[name='host']").wait_for()
        self.page.wait_for_timeout(1000)
        self.check_standard_fields(form)
        self.picture("connection-form")
        self.check_further_fields(
            lambda name: form.locator(f"#extra__atscale__{name}").locator("xpath=ancestor::tr[1]")
        )
        address = urlsplit(engine)
        self.page.fill("#host", f"{address.scheme}://{address.hostname}")
        self.page.fill("#port", str(address.port))
        self.page.fill("#password", API_TOKEN)
        self.page.fill("#extra__atscale__build_history_url", f"{engine}/_engine/history?batchId={{batch_id}}")

    def save_and_test(self) -> None:
        """Press Test in the form, then save."""
        with self.page.expect_response(lambda answer: "connections/test" in answer.url) as tested:
            self.page.locator("#test-connection").click()
        answer = tested.value.json()
        check(answer.get("status") is True, f"the test said {answer}")
        self.page.get_by_text(answer["message"]).first.wait_for()
        self.page.evaluate("window.scrollTo(0, 0)")
        self.page.wait_for_timeout(500)
        self.picture("connection-test")
        self.page.locator("button:has-text('Save')").click()
        self.page.wait_for_load_state("networkidle")
        saved = self.ask(f"/connections/{CONNECTION}")
        check(saved["conn_type"] == "atscale", f"what was saved is {saved}")

    def trigger(self, dag_id: str) -> None:
        """Press the arrow."""
        self.go(f"/dags/{dag_id}/grid")
        self.page.get_by_label("Trigger DAG").click()
        self.page.wait_for_load_state("networkidle")

    def open_run(self, dag_id: str, run_id: str) -> None:
        """Open the grid with a run."""
        self.go(f"/dags/{dag_id}/grid?dag_run_id={quote(run_id)}")

    def open_task(self, dag_id: str, run_id: str) -> Locator:
        """Open the details of the build, and return the link to AtScale."""
        self.go(f"/dags/{dag_id}/grid?dag_run_id={quote(run_id)}&task_id={TASK}")
        return self.page.locator(f"a:has-text('{LINK}')")
