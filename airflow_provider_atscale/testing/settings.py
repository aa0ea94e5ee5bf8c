"""Everything about the local engine's behaviour that can be changed while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

_CHOICES: dict[str, tuple[str, ...]] = {
    "history_mode": ("normal", "unauthorized", "forbidden", "missing"),
    "unset_times": ("edition", "absent", "null", "year1"),
    "on_second_start": ("500", "409", "allow"),
    "instances_paging": ("edition", "normal", "ignored", "none"),
    "instances_filter": ("normal", "ignored"),
    "instances_batch_id": ("edition", "present", "absent"),
    "batch_envelope": ("top", "response"),
}
START_FORMS = ("project_id", "literal", "environment")


@dataclass
class Settings:
    """
    Hold the switches of a local engine.

    :param build_seconds: how long a batch takes from its creation to its end.
    :param queue_seconds: how much of that it stays ``new``; ``None`` is a tenth of it.
    :param history_delay: seconds until a new batch shows up in the build history.
    :param history_mode: ``normal``, or ``unauthorized`` (401), ``forbidden`` (403), ``missing`` (404).
    :param unset_times: how a time that is not there yet looks: ``absent``, ``null``, ``year1``
        (``0001-01-01T00:00:00Z``), or ``edition``: absent in the container, year 1 in the installer edition.
    :param on_second_start: answer to a start while a batch of the model runs: ``500``, ``409`` or ``allow``.
    :param token_ttl: seconds that an issued JWT is valid.
    :param exchanges_tokens: without it ``POST /v1/token`` answers 404, as builds without that call do.
    :param v1_accepts_exchanged_jwt: whether ``/v1`` takes the JWT of ``POST /v1/token``.
    :param wapi_accepts_api_token: whether ``/wapi/p`` takes the raw API token.
    :param can_manage: whether the user holds ``aggregates_manage``.
    :param can_view: whether the user holds ``aggregates_view``.
    :param instances_paging: ``normal`` (``page`` and ``size``; installer edition: ``limit`` and ``offset``);
        ``ignored`` always answers the first ten rows and no total; ``none`` answers all rows without paging
        fields, as older builds do; or ``edition``: normal in the container, none in the installer edition,
        whose documented call has no paging.
    :param instances_filter: with ``ignored`` the instances of all batches come, whatever ``batchId`` says.
    :param instances_batch_id: whether an instance names its batch: ``present``, ``absent``, or ``edition``: as
        documented, present in the container and absent in the installer edition.
    :param clock_offset: seconds that the server's clock is ahead of the machine's.
    :param failed_aggregates: how many aggregates every batch fails to build.
    :param failing_models: model (id, name or caption) to the status its batches end with.
    :param status_words: replaces status words in answers, as in ``{"inprogress": "running"}``.
    :param start_forms: installer edition: which spellings of the start call exist.
    :param start_status: installer edition: HTTP status of an accepted start.
    :param batch_envelope: installer edition: the batch of a start is at ``top`` level or under ``response``.
    :param version: what the version call answers; ``None`` is a version typical of the edition.
    :param latency: seconds that every request waits before it is processed.
    :param log_requests: whether requests are kept; they are counted in any case.
    :param log_limit: how many requests are kept.
    """

    build_seconds: float = 2.0
    queue_seconds: float | None = None
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
    clock_offset: float = 0.0
    failed_aggregates: int = 0
    failing_models: dict[str, str] = field(default_factory=dict)
    status_words: dict[str, str] = field(default_factory=dict)
    start_forms: tuple[str, ...] = START_FORMS
    start_status: int = 201
    batch_envelope: str = "top"
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
        if name in _CHOICES:
            value = str(value)
            if value not in _CHOICES[name]:
                raise ValueError(f"{name} is one of {', '.join(_CHOICES[name])}; not {value!r}")
        if name == "start_forms":
            value = tuple(value)
            if unknown := set(value) - set(START_FORMS):
                raise ValueError(f"start_forms are {', '.join(START_FORMS)}; not {', '.join(sorted(unknown))}")
        return value
