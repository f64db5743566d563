"""What a recipe file may look like on disk, and what is said where it may not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrl.errors import RecipeError
from llmrl.recipe.checks import check_recipe
from llmrl.recipe.load import load_recipe


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as error:
        load_recipe(path, overrides)
    return str(error.value)


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert refusal(Path("no.toml")) == f"no.toml: no such recipe file; looked for '{tmp_path}/no.toml'."


def test_a_folder_is_not_a_recipe(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path}: is a folder; give the recipe file inside it."


def test_a_byte_order_mark_and_windows_line_ends_are_tolerated(good: Path) -> None:
    expected = load_recipe(good).recipe

    good.write_bytes(b"\xef\xbb\xbf" + good.read_bytes().replace(b"\n", b"\r\n"))

    assert load_recipe(good).recipe == expected


def test_utf_16_is_named(good: Path) -> None:
    good.write_text(good.read_text(), encoding="utf-16")

    assert refusal(good) == f"{good}: encoded as UTF-16; save it as UTF-8."


def test_another_encoding_is_found_by_line_and_byte(good: Path) -> None:
    good.write_bytes(b'# first line\n# gr\xfc\xdfe\n[model]\npath = "x"\n')

    assert refusal(good) == f"{good}: line 2: byte 0xfc at offset 17 is not UTF-8; save the file as UTF-8."


def test_a_file_over_a_megabyte_is_refused_unread(good: Path) -> None:
    good.write_bytes(b"#" * 10_000_000)

    assert refusal(good) == f"{good}: larger than 1,000,000 bytes; this is not a recipe."


def test_deep_nesting_is_refused_whether_the_parser_minds_or_not(good: Path) -> None:
    text = good.read_text()

    good.write_text(text + f"\n[cluster]\nenvironment = {'[' * 100_000}")
    assert refusal(good) == f"{good}: nested too deeply; at most 32 levels are allowed."

    good.write_text(text.replace("hidden_size = 64", f"hidden_size = {'{ a = ' * 60}1{' }' * 60}"))
    assert refusal(good).endswith("nested too deeply; at most 32 levels are allowed.")


def test_an_integer_too_long_to_print_is_refused(good: Path) -> None:
    good.write_text(good.read_text().replace("steps = 100", f"steps = {'9' * 5000}"))

    assert refusal(good).startswith(f"{good}: not valid TOML: ")


def test_at_most_twenty_problems_are_listed(good: Path) -> None:
    lines = refusal(good, *(f"engines.key_{i}=1" for i in range(25))).splitlines()

    assert len(lines) == 21
    assert lines[-1] == f"{good}: 5 more problems are not shown."


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_an_unreadable_file_says_why(good: Path) -> None:
    good.chmod(0)

    assert refusal(good) == f"{good}: cannot be read: Permission denied."


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_file_is_a_recipe_error_or_a_recipe(data: st.DataObject, good: Path) -> None:
    text = good.read_bytes()
    start = data.draw(st.integers(0, len(text)))
    length = data.draw(st.integers(0, 8))
    damage = data.draw(
        st.one_of(st.binary(max_size=6), st.sampled_from([b"[", b'"', b" = ", b"{}", b"1", b"nan"]))
    )
    path = good.with_name("damaged.toml")
    path.write_bytes(text[:start] + damage + text[start + length :])

    assert outcome(path).startswith(("right", f"{path}: "))


def outcome(path: Path) -> str:
    try:
        check_recipe(load_recipe(path))
    except RecipeError as error:
        return str(error)
    return "right"
