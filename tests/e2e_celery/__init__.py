"""
The end-to-end suite on CeleryExecutor: each service and each component of Airflow is taken away in mid-build.

``make e2e-celery`` runs it. It needs Debian's packages ``postgresql`` and ``redis-server``, Airflow 3.3, Linux
and two cores, takes about fifteen minutes, and leaves no process behind. Options are those of ``tests/e2e``.

- ``cases``: what is done, and what must come of it; ``injuries``: how it is done;
- ``celery_site``: Airflow with two schedulers, workers and triggerers; ``services``: PostgreSQL and Redis.

All else is that of ``tests/e2e``.
"""
