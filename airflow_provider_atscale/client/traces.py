"""Pass on the trace of the running task, if there is one."""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """
    Return the header ``traceparent`` (W3C Trace Context) of the active span; empty if there is none.

    A span can only be active if OpenTelemetry is imported already, so nothing is imported for it.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"}
