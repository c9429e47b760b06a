"""Words that the project does not use, each with what to write instead; `test_vocabulary.py` looks for them.

The words of the paper name the model, the words of PyTorch and of the field name everything else (CONTRIBUTING.md, Glossary).
"""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXEMPT = {"tests/quality/vocabulary.py", "tests/quality/test_vocabulary.py", "LICENSE", "CHANGELOG.md"}

# Parts of identifiers, as `told` in `_told_by`: the part -> what to write instead.
BANNED_IN_NAMES = {
    "asked": "requested",
    "awake": "active",
    "begun": "started",
    "crew": "workers, worker_group",
    "given": "values, or the name of what is given",
    "held": "frozen, local_tensor, buffered",
    "heed": "handle",
    "lain": "stored",
    "lying": "stored, extent",
    "moved": "changed, or the name of what has moved",
    "parcel": "export",
    "piece": "shard, component",
    "pieces": "shards, components",
    "said": "message, text",
    "shown": "format_..., displayed value by its name",
    "team": "comm",
    "tell": "report, log",
    "tells": "reports, logs",
    "told": "reported, aux_outputs",
    "whereabouts": "location",
    "zygote": "fork_server",
}

# Phrases in docstrings, comments, help, messages and documents: a regular expression -> what to write instead.
BANNED_IN_TEXTS = {
    r"\btell(s|ing)?\b|\btold\b": "reports, logs, prints, returns",
    r"\bsa(id|ys?)\b(?! `)": "reports, states, prints, shows",
    r"\bhang(s|ing)? on\b": "depends on",
    r"\b(is|are|was|were|be) another('s)?\b(?! \w)": "differs",
    r"\bgo(es|ing)? on\b|\bwent on\b|\bgone on\b": "continues, resumes",
    r"\blies\b|\blie\b|\blying\b": "is stored, is located",
    r"\bstand(s|ing)?\b(?! for| in for)": "is, is stored, is listed",
    r"\bway back\b": "backward pass",
    r"\bby hand\b|\bhand-written\b(?! digits)": "manually; CPU kernels",
    r"\bto be had\b": "available",
    r"\bfor ever\b": "permanently, endlessly",
    r"\bpassed over\b": "skipped",
    r"\bleft out\b|\bleave(s)? out\b": "skipped, omitted",
    r"\bin words\b": "as text",
    r"\bin (two |three |several |many )?pieces\b|\bpieces? of tensors?\b": "sharded, in shards",
    r"\bdivided? among\b": "sharded over, split over",
    r"\bthe first process\b": "rank 0",
    r"\bteam\b": "ranks, communicator",
    r"\bcrew\b|\bzygote\b|\bparcel\b": "workers, fork server, export",
    r"\bmend(s|ed|ing)?\b": "fix, repair",
    r"\bstranger('s|s)?\b": "third party",
    r"(?<!there )\b(is|are) (?-i:none)\b": "is invalid, is not a ...",
    r"\bwithout a word\b": "silently",
    r"\boptimizer remembers\b": "optimizer state",
    r"\bspeaks?\b": "prints, logs",
    r"\bhears?\b": "receives",
    r"\banew\b": "again",
    r"\bdo(es)? not know\b|\bknows?\b(?= nothing| no | of )": "does not have, does not read",
}

_MARKDOWN_GLOSSARY = re.compile(r"<!-- glossary -->.*?<!-- /glossary -->", re.S)


def iter_documents() -> Iterator[tuple[str, str]]:
    """Path and text of every file that people read."""
    skipped = {".git", ".venv", "runs", "build", "dist", "golden"}
    for suffix in ("*.py", "*.md", "*.yaml", "*.toml", "*.txt"):
        for path in sorted(ROOT.rglob(suffix)):
            name = str(path.relative_to(ROOT))
            if (
                name not in EXEMPT
                and not skipped & set(path.parts)
                and not any(p.startswith(".") for p in path.relative_to(ROOT).parts)
            ):
                yield name, path.read_text(encoding="utf-8")


def iter_prose(name: str, text: str) -> Iterator[tuple[int, str]]:
    """Line number and text of every line that is prose: comments and strings of Python, all lines of other files."""
    if not name.endswith(".py"):
        blank = lambda match: "\n" * match[0].count("\n")  # noqa: E731
        yield from enumerate(_MARKDOWN_GLOSSARY.sub(blank, text).splitlines(), 1)
        return
    string_kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in string_kinds:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def iter_names(text: str) -> Iterator[tuple[int, str]]:
    """Line number and name of every identifier of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def find_banned_texts(name: str, text: str) -> list[str]:
    """What a document writes that the project does not, each with its place and what to write instead."""
    return [
        f"{name}:{line}: {match[0]!r} -> {instead}: {prose.strip()[:90]}"
        for line, prose in iter_prose(name, text)
        for pattern, instead in BANNED_IN_TEXTS.items()
        if (match := re.search(pattern, prose, re.I))
    ]


def find_banned_names(name: str, text: str) -> list[str]:
    """Which identifiers of a Python file have a banned part."""
    return [
        f"{name}:{line}: {identifier} -> {BANNED_IN_NAMES[part.lower()]}"
        for line, identifier in iter_names(text)
        for part in re.findall(r"[a-z]+|[A-Z][a-z]+", identifier.replace("held_out", ""))
        if part.lower() in BANNED_IN_NAMES and not (identifier == "given" and "from hypothesis" in text)
    ]


if __name__ == "__main__":  # python tests/quality/vocabulary.py [PREFIX...]: what is left to rewrite below these paths
    import sys

    prefixes = tuple(sys.argv[1:]) or ("",)
    for document, content in iter_documents():
        if document.startswith(prefixes):
            found = find_banned_texts(document, content)
            found += find_banned_names(document, content) if document.endswith(".py") else []
            for line in found:
                print(line)
