from __future__ import annotations

from dataclasses import fields

import pytest

from geumgo.api import ApiSettings, SettingsError, settings_from_environment


def test_the_environment_sets_fields_of_every_type() -> None:
    environ = {
        "GEUMGO_API_MAX_BODY": "1024",
        "GEUMGO_API_KEEP_ALIVE": "1.5",
        "GEUMGO_API_LOG_REQUESTS": "false",
    }
    settings = settings_from_environment(ApiSettings, "GEUMGO_API_", environ)
    assert (settings.max_body, settings.keep_alive, settings.log_requests) == (1024, 1.5, False)


def test_what_is_not_set_keeps_its_default() -> None:
    assert settings_from_environment(ApiSettings, "GEUMGO_API_", {"PATH": "/bin"}) == ApiSettings()


def test_what_the_caller_gives_wins() -> None:
    environ = {"GEUMGO_API_MAX_BODY": "1"}
    assert settings_from_environment(ApiSettings, "GEUMGO_API_", environ, max_body=2).max_body == 2


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf", "1.5", "1e3"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="GEUMGO_API_MAX_BODY"):
        settings_from_environment(ApiSettings, "GEUMGO_API_", {"GEUMGO_API_MAX_BODY": text})


@pytest.mark.parametrize("text", ["", "x", "-1", "nan", "inf"])
def test_what_is_no_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(SettingsError, match="GEUMGO_API_LINGER"):
        settings_from_environment(ApiSettings, "GEUMGO_API_", {"GEUMGO_API_LINGER": text})


def test_what_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(SettingsError, match="GEUMGO_API_LOG_REQUESTS"):
        settings_from_environment(ApiSettings, "GEUMGO_API_", {"GEUMGO_API_LOG_REQUESTS": "yes please"})


def test_every_limit_has_a_default_of_its_type() -> None:
    for field in fields(ApiSettings):
        assert type(field.default).__name__ == field.type
