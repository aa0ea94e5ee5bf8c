"""The page "AtScale builds" inside Airflow's UI."""

#: Where the API server mounts the application, and the page in it.
PREFIX = "/atscale"
PAGE = "/builds"
