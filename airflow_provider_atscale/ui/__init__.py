"""The page "AtScale builds" inside Airflow's UI."""
