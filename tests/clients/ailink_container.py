"""Use AI-Link 3 as its users do, and print what happened as one line of JSON."""

from __future__ import annotations

import json
import sys
import urllib.request

from atscale.client import Client


def attempt(call, *arguments):
    """Return what a call returns, or the name and text of its error."""
    try:
        return call(*arguments)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def main():
    given = json.loads(sys.argv[1])
    client = Client(server=given["url"], username=given["login"], password=given["password"])
    told = {"version_accepted": client._version_check(given["url"], True)}
    told["connect"] = attempt(client.connect)
    told["connected"] = client._atconn._connected()
    told["catalogs"] = attempt(client.get_catalogs)
    told["repos"] = attempt(client.get_repos)
    expire = urllib.request.Request(given["url"] + "/_engine/tokens/expire", method="POST")
    urllib.request.urlopen(expire, timeout=10).close()
    told["repos_after_expiry"] = attempt(client.get_repos)
    other = Client(server=given["url"], username=given["login"], password="wrong")
    told["wrong_password"] = attempt(other.connect)
    print(json.dumps(told))


main()
