"""The settings of a local engine; all of them can be changed while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

CHOICES: dict[str, tuple[str, ...]] = {
    "history_mode": ("normal", "unauthorized", "forbidden", "missing"),
    "unset_times": ("edition", "absent", "null", "year1"),
    "on_second_start": ("500", "409", "allow"),
    "instances_paging": ("edition", "normal", "ignored", "none"),
    "instances_filter": ("normal", "ignored"),
    "instances_batch_id": ("edition", "present", "absent"),
    "batch_envelope": ("top", "response"),
    "definitions_paging": ("edition", "normal", "ignored"),
    "incremental_by_api": ("allowed", "refused", "ignored"),
    "retry_rows": ("same", "new"),
    "superseded_instances": ("deleted", "kept"),
}
START_FORMS = ("project_id", "literal", "environment")


@dataclass
class Settings:
    """
    Hold the settings of a local engine.

    :param build_seconds: how long a batch takes from its creation to its end.
    :param queue_seconds: how much of that it stays ``new``; ``None`` is a tenth of it.
    :param estimate_factor: AtScale's ``estimateTime`` of a running batch is its real duration times this. It is
        an estimate, so it is wrong by default; a batch that has ended shows 0.
    :param history_delay: seconds until a new batch shows up in the build history.
    :param history_mode: ``normal``, or ``unauthorized`` (401), ``forbidden`` (403), ``missing`` (404).
    :param unset_times: how a time that is not known yet is written: ``absent``, ``null``, ``year1``
        (``0001-01-01T00:00:00Z``), or ``edition``: absent in the container, year 1 in the installer edition.
    :param on_second_start: answer to a start while a batch of the model runs: ``500``, ``409`` or ``allow``.
    :param token_ttl: seconds that an issued JWT is valid.
    :param exchanges_tokens: whether ``POST /v1/token`` exists; if not, it answers 404, as older builds do.
    :param v1_accepts_exchanged_jwt: whether ``/v1`` takes the JWT of ``POST /v1/token``.
    :param wapi_accepts_api_token: whether ``/wapi/p`` takes the raw API token.
    :param can_manage: whether the user holds ``aggregates_manage``.
    :param can_view: whether the user holds ``aggregates_view``.
    :param instances_paging: ``normal`` (``page`` and ``size``; installer edition: ``limit`` and ``offset``);
        ``ignored`` always answers the first ten rows and no total; ``none`` answers all rows without paging
        fields, as older builds do; or ``edition``: normal in the container, none in the installer edition,
        whose documented call has no paging.
    :param instances_filter: ``ignored`` lists the instances of all batches, whatever ``batchId`` says.
    :param instances_batch_id: whether an instance names its batch: ``present``, ``absent``, or ``edition``: as
        documented, present in the container and absent in the installer edition.
    :param definitions_paging: the list of aggregate definitions: ``normal`` (``page`` and ``size``; installer
        edition: ``limit``); ``ignored`` always answers the first ten rows and no total; or ``edition``:
        ignored in the container, where AtScale's builds were seen to do so, normal in the installer edition.
    :param superseded_instances: what becomes of an aggregate's active instance when a later full build has
        built the aggregate again: it is ``deleted``, or ``kept`` as it is.
    :param incremental_by_api: container edition: what an incremental start does. ``allowed``, as with both
        ``gracePeriodOverrides.enabled`` settings of AtScale on; with them off, as they are by default, AtScale
        does not document it: ``refused`` answers 400, ``ignored`` starts a full build without overrides.
    :param clock_offset: seconds that the server's clock is ahead of the machine's.
    :param failed_aggregates: how many aggregates every batch fails to build.
    :param repaired_aggregates: how many aggregates of every batch fail at first and are built by a retry inside
        the batch.
    :param max_failures: how many aggregates may fail before a batch is ``failed`` instead of ``done``, as
        AtScale's ``aggregates.batch.max.failures``; ``None`` for any number. A status that ``fail_next``,
        ``end_batch`` or ``failing_models`` gives takes precedence.
    :param retry_rows: a retry inside a batch is the ``same`` instance row, or a ``new`` one of the same
        ``definitionId``; AtScale does not document which.
    :param attempts_per_aggregate: with new rows: how often a batch tries an aggregate that fails, as AtScale's
        ``aggregates.batch.retry.maxAttemptsPerAggregate``.
    :param attempts_per_batch: with new rows: how many retries a batch makes in all, as AtScale's
        ``aggregates.batch.retry.maxAttemptsPerBatch``.
    :param failing_models: model (id, name or caption) to the status its batches end with.
    :param status_words: replaces status words in answers, as in ``{"inprogress": "running"}``.
    :param start_forms: installer edition: which spellings of the start call exist.
    :param start_status: installer edition: HTTP status of an accepted start; ``None`` is the one that AtScale's
        clients know, 200 for the form ``environment`` and 201 for the others.
    :param batch_envelope: installer edition: the batch of a start is at ``top`` level or under ``response``.
    :param login_newline: installer edition: whether the answer to a login ends with a newline.
    :param version: what the version call answers; ``None`` is a version typical of the edition.
    :param latency: seconds that every request waits before it is processed.
    :param log_requests: whether requests are kept; they are counted in any case.
    :param log_limit: how many requests are kept.
    """

    build_seconds: float = 2.0
    queue_seconds: float | None = None
    estimate_factor: float = 0.5
    history_delay: float = 0.0
    history_mode: str = "normal"
    unset_times: str = "edition"
    on_second_start: str = "500"
    token_ttl: float = 3600
    exchanges_tokens: bool = True
    v1_accepts_exchanged_jwt: bool = True
    wapi_accepts_api_token: bool = False
    can_manage: bool = True
    can_view: bool = True
    instances_paging: str = "edition"
    instances_filter: str = "normal"
    instances_batch_id: str = "edition"
    definitions_paging: str = "edition"
    superseded_instances: str = "deleted"
    incremental_by_api: str = "allowed"
    clock_offset: float = 0.0
    failed_aggregates: int = 0
    repaired_aggregates: int = 0
    max_failures: int | None = 0
    retry_rows: str = "same"
    attempts_per_aggregate: int = 3
    attempts_per_batch: int = 5
    failing_models: dict[str, str] = field(default_factory=dict)
    status_words: dict[str, str] = field(default_factory=dict)
    start_forms: tuple[str, ...] = START_FORMS
    start_status: int | None = None
    batch_envelope: str = "top"
    login_newline: bool = False
    version: str | None = None
    latency: float = 0.0
    log_requests: bool = True
    log_limit: int = 20_000

    def change(self, **changes: Any) -> None:
        """Change several settings, or none if one of them is wrong."""
        checked = {name: self._checked(name, value) for name, value in changes.items()}
        for name, value in checked.items():
            setattr(self, name, value)

    def _checked(self, name: str, value: Any) -> Any:
        if name not in {known.name for known in fields(self)}:
            raise ValueError(f"There is no setting {name!r}")
        if name in CHOICES:
            value = str(value)
            if value not in CHOICES[name]:
                raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}; not {value!r}")
        if name == "start_forms":
            value = tuple(value)
            if unknown := set(value) - set(START_FORMS):
                raise ValueError(f"start_forms are {', '.join(START_FORMS)}; not {', '.join(sorted(unknown))}")
        return value
