"""Use AI-Link 2 as its users do, and print what happened as one line of JSON."""

from __future__ import annotations

import json
import sys

from atscale.client import Client
from atscale.parsers import project_parser


def attempt(call, *arguments):
    """Return what a call returns, or the name and text of its error."""
    try:
        return call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main():
    given = json.loads(sys.argv[1])

    def new_client(password):
        return Client(
            server=given["server"],
            username=given["login"],
            password=password,
            organization="default",
            engine_url_override=given["engine_url"],
        )

    client = new_client(given["password"])
    told = {"version_accepted": client._version_check(given["server"])}
    told["connect"] = attempt(client.connect)
    told["connected"] = client._atconn._connected()
    told["user"] = client._atconn._user_id
    told["organizations"] = [each["id"] for each in client.get_organizations()]
    published = client._atconn._get_published_projects()
    usable = [project for project in published if project["name"] == "Sales Insights"]
    told["published"] = sorted({project["name"] for project in published})
    told["newest"] = project_parser.parse_most_recent_published_project(
        [project for project in usable if project["publishType"] != "soft_publish"]
    )["id"]
    told["drafts"] = attempt(client.get_projects)
    told["wrong_password"] = attempt(new_client("wrong").connect)
    print(json.dumps(told))


main()
