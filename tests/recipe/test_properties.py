"""Properties of all recipes: writing and reading gives the same recipe, and a damaged line is reported."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ni_framework.errors import PluginError, ProblemsError, RecipeError
from ni_framework.recipe import Recipe, dump, load, loads
from tests.helpers.recipe_components import VALID_RECIPE, resolve_component
from tests.helpers.recipe_strategies import recipes

quick_settings = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
recipe_texts = recipes.map(dump)


@pytest.mark.slow
@quick_settings
@given(recipes)
def test_dump_and_loads_are_inverse(recipe: Recipe) -> None:
    """Reading a dumped recipe gives the same recipe, and dumping that gives the same text."""
    text = dump(recipe)
    again = loads(text, resolve=resolve_component)
    assert again == recipe
    assert dump(again) == text


def test_dump_distinguishes_recipes() -> None:
    """A control of the test above: a changed number changes the text."""
    one, two = (
        loads(VALID_RECIPE, [f"train.optimizer.lr={lr}"], resolve=resolve_component)
        for lr in ("0.1", "0.10000000000000002")
    )
    assert one != two
    assert dump(one) != dump(two)


def replace_line(text: str, number: int, line: str) -> str:
    """A text with one line replaced, counted from 0."""
    lines = text.split("\n")
    lines[number] = line
    return "\n".join(lines)


def reported_lines(text: str) -> set[int]:
    """The line numbers of the problems of a text."""
    with pytest.raises(RecipeError) as caught:
        loads(text, resolve=resolve_component)
    return {problem.mark.line for problem in caught.value.problems if problem.mark}


_KEY = re.compile(r"( *)([a-z_]+):( ?)(.*)")
_MUTATIONS = {
    "a typo": r"\1\2x:\3\4",
    "a wrong type": r"\1\2: {wrong: [type]}",
    "a tab": "\\1\t\\2:\\3\\4",
    "a NUL": "\\1\\2\0:\\3\\4",
    "given twice": r"\1\2:\3\4" + "\n" + r"\1\2: 1",
}


@pytest.mark.slow
@quick_settings
@given(recipe_texts, st.sampled_from(sorted(_MUTATIONS)), st.data())
def test_the_line_of_a_damaged_key_is_reported(text: str, name: str, data: st.DataObject) -> None:
    """For each kind of damage to one key of a valid recipe. Keys of an open mapping (`table`) can be anything, so not those."""
    lines = text.split("\n")
    keys = [n for n, line in enumerate(lines) if _KEY.fullmatch(line) and not line.endswith(":")]
    open_keys = [n for n in keys if lines[n].startswith("    ") and "table:" in "".join(lines[max(0, n - 4) : n])]
    number = data.draw(st.sampled_from([n for n in keys if n not in open_keys]))
    mutated = _KEY.sub(_MUTATIONS[name], lines[number])
    damaged = replace_line(text, number, mutated)
    expected = {number + 1, number + 2} if name == "given twice" else {number + 1}
    assert reported_lines(damaged) & expected


def error_report(read: Callable[[], Recipe]) -> ProblemsError | None:
    """The error of reading a recipe; None if it can be read."""
    try:
        read()
    except (RecipeError, PluginError) as error:
        return error
    return None


def _random_bytes(seed: int) -> bytes:
    """The valid recipe with a few random bytes changed, removed or repeated, or with its end cut off."""
    generator = random.Random(seed)
    content = bytearray(VALID_RECIPE.encode())
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(len(content))
        kind = generator.randrange(5)
        if kind == 0:
            content[place] = generator.randrange(256)
        elif kind == 1:
            del content[place : place + generator.randint(1, 9)]
        elif kind == 2:
            content[place:place] = generator.choice(
                [b"{", b"[", b"]", b"&a ", b"*a", b"!!x ", b"\t", b": ", b"- ", b"'", b"\n"]
            )
        elif kind == 3:
            content[place:place] = content[place : place + generator.randint(1, 40)]
        elif len(content) > 40:
            del content[place + 20 :]
    return bytes(content)


@pytest.mark.slow
def test_random_bytes_give_a_recipe_or_a_report(tmp_path: Path) -> None:
    """Each of 400 damaged files is a recipe, or gives a report whose problems name the file; both happen."""
    path = tmp_path / "recipe.yaml"
    reports = []
    for seed in range(400):
        path.write_bytes(_random_bytes(seed))
        reports.append(error_report(lambda: load(path, resolve=resolve_component)))
    assert 200 < sum(report is not None for report in reports) < 400
    for report in filter(None, reports):
        assert all(problem.mark and problem.mark.source == str(path) for problem in report.problems), report
        assert "this is not valid YAML" not in str(report), "a syntax error without a specific message"


def test_truncated_recipes_give_a_report(tmp_path: Path) -> None:
    """A recipe cut off after any byte, until its last value begins."""
    path = tmp_path / "recipe.yaml"
    content = VALID_RECIPE.encode()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        report = error_report(lambda: load(path, resolve=resolve_component))
        assert report is not None or b"batch: 6" in content[:length], f"the first {length} bytes are a recipe"
    assert error_report(lambda: loads(content[:-1].decode(), resolve=resolve_component)) is None


@quick_settings
@given(st.text(max_size=60), st.sampled_from(["", "a: ", "model: {", "- ", "'", '"', "|", "? "]))
def test_any_text_gives_a_report(text: str, before: str) -> None:
    """None of these texts is a recipe, and none raises anything else than `RecipeError`."""
    with pytest.raises(RecipeError):
        loads(before + text, resolve=resolve_component)


@pytest.mark.slow
@quick_settings
@given(st.text(max_size=40))
def test_any_override_gives_a_recipe_or_a_report(argument: str) -> None:
    """Every argument gives a recipe, or a report about that argument."""
    for override in (argument, f"seed={argument}", f"{argument}=1", f"model.{argument}", f"data={argument}"):
        report = error_report(lambda override=override: loads(VALID_RECIPE, [override], resolve=resolve_component))
        assert report is None or all(problem.mark and not problem.mark.numbered for problem in report.problems), report
