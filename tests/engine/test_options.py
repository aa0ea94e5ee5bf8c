"""Each setting of the engine is an option of its command, is documented, and is an argument of the fixture."""

from __future__ import annotations

import dataclasses

import pytest

from airflow_provider_atscale.testing import AtScaleEngine
from airflow_provider_atscale.testing.__main__ import main, parser
from airflow_provider_atscale.testing.options import read_settings
from airflow_provider_atscale.testing.settings import CHOICES, Settings


def test_every_setting_is_an_option():
    """A setting is changed by its option, and by nothing else."""
    given = {
        float: (["7.5"], 7.5),
        int: (["7"], 7),
        dict: (["a b=c"], {"a b": "c"}),
        tuple: (["literal"], ["literal"]),
    }
    for setting in dataclasses.fields(Settings):
        option = "--" + setting.name.replace("_", "-")
        default = getattr(Settings(), setting.name)
        if setting.name in CHOICES:
            words, expected = [CHOICES[setting.name][-1]], CHOICES[setting.name][-1]
        elif isinstance(default, bool):
            option, words, expected = ("--no-" + option[2:] if default else option), [], not default
        elif setting.name == "version":
            words, expected = ["9"], "9"
        else:
            numbers = [kind for kind in (float, int) if kind.__name__ in setting.type]
            words, expected = given[numbers[0] if default is None else type(default)]
        settings = read_settings(parser().parse_args([option, *words]))
        assert settings[setting.name] == expected, setting.name
        changed = Settings()
        changed.change(**settings)
        others = read_settings(parser().parse_args([]))
        assert {n: v for n, v in settings.items() if n != setting.name} == {
            n: v for n, v in others.items() if n != setting.name
        }


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--max-failures", "none"], "max_failures", None),
        (["--fail-aggregates", "2"], "failed_aggregates", 2),
        (["--no-request-log"], "log_requests", False),
        (
            ["--status-words", "done=ok", "--status-words", "new=queued"],
            "status_words",
            {"done": "ok", "new": "queued"},
        ),
        ([], "build_seconds", 10),
    ],
)
def test_options(words, name, value):
    assert read_settings(parser().parse_args(words))[name] == value


def test_every_setting_is_documented():
    with_text = parser().format_help()
    for setting in dataclasses.fields(Settings):
        assert f":param {setting.name}: " in Settings.__doc__
        assert "--" + setting.name.replace("_", "-") in with_text


def test_the_marker_takes_every_setting():
    defaults = {f.name: getattr(Settings(), f.name) for f in dataclasses.fields(Settings)}
    with AtScaleEngine(**defaults) as engine:
        assert vars(engine.current) == defaults


def test_a_wrong_pair_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--status-words", "done"])
    assert "is not NAME=VALUE" in capsys.readouterr().err
