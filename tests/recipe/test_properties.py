"""What holds for every recipe: written and read it is the same, and a spoilt line is found."""

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
from tests.helpers.recipe_components import VALID, resolve
from tests.helpers.recipe_strategies import recipes

quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
written = recipes.map(dump)


@quick
@given(recipes)
def test_written_and_read_again_is_the_same(recipe: Recipe) -> None:
    """Parse, resolve, dump, parse: the identity, and the text too is the same."""
    text = dump(recipe)
    again = loads(text, resolve=resolve)
    assert again == recipe
    assert dump(again) == text


def test_dump_tells_recipes_apart() -> None:
    """The identity above is not that of a dump that loses values: one changed number changes the text."""
    one, two = (loads(VALID, [f"train.optimizer.lr={lr}"], resolve=resolve) for lr in ("0.1", "0.10000000000000002"))
    assert one != two
    assert dump(one) != dump(two)


def spoil(text: str, number: int, line: str) -> str:
    """A text with one line replaced, counted from 0."""
    lines = text.split("\n")
    lines[number] = line
    return "\n".join(lines)


def reported(text: str) -> set[int]:
    """The lines that the problems of a text name."""
    with pytest.raises(RecipeError) as caught:
        loads(text, resolve=resolve)
    return {problem.mark.line for problem in caught.value.problems if problem.mark}


_KEY = re.compile(r"( *)([a-z_]+):( ?)(.*)")
_MUTATIONS = {
    "a typo": r"\1\2x:\3\4",
    "a wrong type": r"\1\2: {wrong: [type]}",
    "a tab": "\\1\t\\2:\\3\\4",
    "a NUL": "\\1\\2\0:\\3\\4",
    "given twice": r"\1\2:\3\4" + "\n" + r"\1\2: 1",
}


@quick
@given(written, st.sampled_from(sorted(_MUTATIONS)), st.data())
def test_a_spoilt_line_is_among_the_errors(text: str, name: str, data: st.DataObject) -> None:
    """Whatever is done to one key of a valid recipe, its line is named."""
    lines = text.split("\n")
    own = [n for n, line in enumerate(lines) if _KEY.fullmatch(line) and not line.endswith(":")]
    free = [n for n in own if lines[n].startswith(("      ", "    ")) and "table:" in "".join(lines[max(0, n - 4) : n])]
    number = data.draw(st.sampled_from([n for n in own if n not in free]))
    mutated = _KEY.sub(_MUTATIONS[name], lines[number])
    spoilt = spoil(text, number, mutated)
    expected = {number + 1, number + 2} if name == "given twice" else {number + 1}
    assert reported(spoilt) & expected


def outcome(read: Callable[[], Recipe]) -> ProblemsError | None:
    """The report that reading a recipe ends with, None where it ends with a recipe."""
    try:
        read()
    except (RecipeError, PluginError) as error:
        return error
    return None


def _bytes(seed: int) -> bytes:
    """The valid recipe with a few random bytes changed, removed, doubled, or its end cut off."""
    generator = random.Random(seed)
    content = bytearray(VALID.encode())
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


def test_any_bytes_give_a_recipe_or_a_report(tmp_path: Path) -> None:
    """400 spoilt files: each is a recipe or a report whose problems name the file, and both happen."""
    path = tmp_path / "recipe.yaml"
    reports = []
    for seed in range(400):
        path.write_bytes(_bytes(seed))
        reports.append(outcome(lambda: load(path, resolve=resolve)))
    assert 200 < sum(report is not None for report in reports) < 400
    for report in filter(None, reports):
        assert all(problem.mark and problem.mark.source == str(path) for problem in report.problems), report
        assert "this is not valid YAML" not in str(report), "a syntax error without words of its own"


def test_any_cut_gives_a_recipe_or_a_report(tmp_path: Path) -> None:
    """A recipe cut off after any byte."""
    path = tmp_path / "recipe.yaml"
    whole = VALID.encode()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        report = outcome(lambda: load(path, resolve=resolve))
        assert report is not None or b"batch: 6" in whole[:length], f"the first {length} bytes are a recipe"
    assert outcome(lambda: loads(whole[:-1].decode(), resolve=resolve)) is None


@quick
@given(st.text(max_size=60), st.sampled_from(["", "a: ", "model: {", "- ", "'", '"', "|", "? "]))
def test_any_text_gives_a_report(text: str, before: str) -> None:
    """No text makes anything but a report; none of these is a recipe."""
    with pytest.raises(RecipeError):
        loads(before + text, resolve=resolve)


@quick
@given(st.text(max_size=40))
def test_any_override_gives_a_recipe_or_a_report(argument: str) -> None:
    """No argument makes anything but a recipe or a report about that argument."""
    for override in (argument, f"seed={argument}", f"{argument}=1", f"model.{argument}", f"data={argument}"):
        report = outcome(lambda override=override: loads(VALID, [override], resolve=resolve))
        assert report is None or all(problem.mark and not problem.mark.numbered for problem in report.problems), report
