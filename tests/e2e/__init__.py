"""
The end-to-end suite: a real Airflow and local AtScale engines, as processes, injured at named points.

``python -m pytest tests/e2e`` runs all cases and prints a table; ``-k "reply and deferrable"`` runs some;
``--e2e-keep`` keeps Airflow's home with its logs and database, which is kept anyway where a case differs. It
needs Airflow 3.3, Linux and two cores, takes about ten minutes, and leaves no process behind.

- ``cases``, for the sensor ``sensors``: what is done to a task and what must come of it, as data; ``case``: what
  such a case is;
- ``plays``: how each deed is done; ``scene``: what a play has to act with;
- ``stage``: which case is played when, and where; ``session``: options, the folder of a run, the table;
- ``airflow_site``, ``engines``, ``processes``: Airflow, the engines, and how processes are started, found and
  killed.
"""

import sys
from pathlib import Path

# For what the suite shares with ``make airflow``.
sys.path.append(str(Path(__file__).parents[2] / "scripts"))
