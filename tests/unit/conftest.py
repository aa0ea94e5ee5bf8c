from __future__ import annotations

import os
import tempfile

from hypothesis import HealthCheck, settings

# Airflow makes its home when it is imported; nothing here wants the user's own.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

settings.register_profile(
    "unit", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("unit")
