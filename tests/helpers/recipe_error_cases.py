"""Everything that can be wrong with a recipe, one case each.

A case is the bytes of a file and the overrides. Its complete report is in `tests/error_texts/recipe.txt`.
"""

from __future__ import annotations

from tests.helpers.recipe_components import VALID_RECIPE


def edit_recipe(*pairs: str, text: str = VALID_RECIPE) -> bytes:
    """A recipe with parts of its text replaced: old, new, old, new."""
    for old, new in zip(pairs[::2], pairs[1::2], strict=True):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text.encode()


def with_train_key(line: str) -> bytes:
    """The valid recipe with one more line in `train`."""
    return (VALID_RECIPE + f"  {line}\n").encode()


def with_router(options: str) -> bytes:
    """The valid recipe with another router."""
    return edit_recipe("{use: kernel, truncation: 1.2}", options)


def with_all_option_types(options: str) -> bytes:
    """The valid recipe with a component that has options of every type."""
    return edit_recipe("data: digits", f"data: {{use: folder, parts: [modlin], {options}}}")


def with_deepspeed_engine(lines: str) -> bytes:
    """The valid recipe with DeepSpeed's own settings, in stage 2."""
    block = "".join(f"    {line}\n" for line in lines.splitlines())
    return f"{VALID_RECIPE}engine:\n  use: zero\n  deepspeed:\n{block}".encode()


RecipeErrorCase = tuple[bytes, list[str]]

_FILES: dict[str, bytes] = {
    # not YAML
    "a tab as indentation": edit_recipe("  width", "\twidth"),
    "a tab after a colon": edit_recipe("seed: 3", "seed:\t3"),
    "a reserved character": edit_recipe("seed: 3", "seed: @3"),
    "a percent sign": with_train_key("precision: %d"),
    "a key without a colon": edit_recipe("seed: 3", "seed 3"),
    "a second colon": edit_recipe("seed: 3", "seed: 3: 4"),
    "a key without its indentation": edit_recipe("  iterations", "iterations"),
    "a key with too much indentation": edit_recipe("  iterations", "     iterations"),
    "a key with too little indentation": edit_recipe("  iterations", " iterations"),
    "a list item behind a key": edit_recipe("seed: 3", "seed: - 3"),
    "a question mark": edit_recipe("seed: 3", "seed: ? 3"),
    "a quote never closed": edit_recipe("seed: 3", "seed: 'three"),
    "a double quote never closed": edit_recipe("data: digits", 'data: "digits'),
    "an unknown escape": edit_recipe("data: digits", r'data: "C:\digits"'),
    "a short escape": edit_recipe("data: digits", r'data: "\xg"'),
    "an impossible escape": edit_recipe("data: digits", r'data: "\UFFFFFFFF"'),
    "a list never closed": edit_recipe("8, 8]", "8, 8"),
    "a list closed as a mapping": edit_recipe("[1, 8, 8]", "[1, 8, 8}"),
    "a mapping never closed": edit_recipe("truncation: 1.2}", "truncation: 1.2"),
    "a mapping never closed at the end": edit_recipe("lr: 3.0e-3}", "lr: 3.0e-3"),
    "a comma too many": edit_recipe("[1, 8, 8]", "[1, , 8]"),
    "a bracket too many": edit_recipe("[1, 8, 8]", "[1, 8, 8]]"),
    "a block of text with an odd head": edit_recipe("data: digits", "data: |digits"),
    "a block of text without indentation": edit_recipe("data: digits", "data: |0"),
    "two documents": VALID_RECIPE.encode() + b"---\nni: 1\n",
    "text behind the end": VALID_RECIPE.encode() + b"...\nni: 1\n",
    "a mapping behind the recipe": b"{ni: 1}\nseed: 3\n",
    # YAML that is not allowed in recipes
    "a directive": b"%YAML 1.1\n---\n" + VALID_RECIPE.encode(),
    "an anchor": edit_recipe("seed: 3", "seed: &seed 3"),
    "an alias": edit_recipe("seed: 3", "seed: *seed"),
    "a tag": edit_recipe("seed: 3", "seed: !!python/object/apply:os.system [id]"),
    "a merge key": edit_recipe("seed: 3", "<<: {seed: 3}"),
    # characters
    "a NUL": edit_recipe("seed: 3", "seed: 3\0"),
    "a control character": edit_recipe("seed: 3", "seed: 3 # \x1b[31m"),
    "a line separator": edit_recipe("data: digits", "data: digits\u2028"),
    "a byte-order mark inside": edit_recipe("seed: 3", "\ufeffseed: 3"),
    "bytes that are not UTF-8": VALID_RECIPE.encode().replace(b"digits", b"d\xefgits"),
    "UTF-16": VALID_RECIPE.encode("utf-16"),
    "UTF-16 without its mark": VALID_RECIPE.encode("utf-16-le"),
    "half a surrogate in an escape": edit_recipe("data: digits", r'data: "\ud800"'),
    # content that is not a recipe
    "an empty file": b"",
    "nothing but comments": b"# a recipe\n\n",
    "a list instead of a recipe": b"- ni: 1\n",
    "text instead of a recipe": b"hello\n",
    "a line without end": edit_recipe("data: digits", f"data: '{'x' * 5000}'"),
    "a file without end": VALID_RECIPE.encode() + b"#" * 10_000_000,
    "too many values": edit_recipe("data: digits", "data: {use: digits, x: [\n" + "1,\n" * 10_000 + "]}"),
    "too many levels": edit_recipe("data: digits", "data: " + "[" * 1000),
    # keys
    "a key given twice": edit_recipe("seed: 3", "seed: 3\nseed: 4"),
    "a key given twice, deep inside": edit_recipe("truncation: 1.2", "truncation: 1.2, truncation: 1.3"),
    "a number as a key": edit_recipe("seed: 3", "3: seed"),
    "null as a key": edit_recipe("seed: 3", "null: seed"),
    "no key": edit_recipe("seed: 3", ": 3"),
    "a list as a key": edit_recipe("seed: 3", "[seed]: 3"),
    "a key without end": edit_recipe("seed: 3", f"{'s' * 200}: 3"),
    "an unknown key": edit_recipe("seed: 3", "sede: 3"),
    "a key like no other": edit_recipe("seed: 3", "colour: 3"),
    "a key in the wrong case": edit_recipe("seed: 3", "SEED: 3"),
    "a key path as a key": edit_recipe("seed: 3", "train.seed: 3"),
    "an unknown key in a mapping in one line": edit_recipe("lr: 3.0e-3", "learning_rate: 1"),
    "no space behind a colon": with_router("{use: kernel, truncation:1.2}"),
    "an unfinished recipe": b"seed: 3\n",
    "the loader's own fields as keys": edit_recipe("seed: 3", "name: x\nmarks: {}"),
    "missing keys": b"ni: 1\nmodel:\n  width: 1\ntrain: {steps: 3}\n",
    "another format": edit_recipe("ni: 1", "ni: 2"),
    "true is not 1": edit_recipe("ni: 1", "ni: true"),
    # values of the wrong type
    "text for a whole number": edit_recipe("seed: 3", "seed: abc"),
    "a quoted number": edit_recipe("seed: 3", "seed: '3'"),
    "a number in the Python style": edit_recipe("seed: 3", "seed: 1_000"),
    "nothing for a number": edit_recipe("seed: 3", "seed:"),
    "null for a number": edit_recipe("seed: 3", "seed: null"),
    "a bool for a number": edit_recipe("seed: 3", "seed: true"),
    "a number with a point for a whole one": edit_recipe("steps: 2000", "steps: 3.7"),
    "a whole number written with a point": edit_recipe("steps: 2000", "steps: 2e3"),
    "a list for a number": edit_recipe("seed: 3", "seed: [3]"),
    "a mapping for a number": edit_recipe("seed: 3", "seed: {three: 3}"),
    "a number for a mapping": edit_recipe("  optimizer: {lr: 3.0e-3}\n", "  optimizer: 3\n"),
    "a list for a mapping": edit_recipe("  optimizer: {lr: 3.0e-3}\n", "  optimizer:\n    - lr\n"),
    "no value for a mapping": VALID_RECIPE.partition("train:")[0].encode() + b"train:\n",
    "a word for true or false": with_router("{use: top_k, k: 1, hard: yes}"),
    "a quoted bool": with_router("{use: top_k, k: 1, hard: 'true'}"),
    "1 for a bool": with_router("{use: top_k, k: 1, hard: 1}"),
    "an unknown word": with_train_key("precision: fp8"),
    "a number for one of the known words": with_train_key("precision: 16"),
    "a number for text": with_all_option_types("word: 1e-3"),
    "an error in a list": edit_recipe("[1, 8, 8]", "[1, 8, x]"),
    "a list too short": edit_recipe("[1, 8, 8]", "[8, 8]"),
    "a list of lists": with_all_option_types("pairs: [[1, a], [2, 3], [x, b], 4]"),
    "a wrong value in a free mapping": with_all_option_types("table: {a: 1, b: x, c: -1}"),
    "a wrong value in a config inside": with_all_option_types("nested: {depth: 0, width: 1}"),
    "neither of two types": with_all_option_types("either: x, maybe: [1], text_or_number: 1.5"),
    "a wrong component in a list": with_all_option_types("flag: true").replace(
        b"[modlin]", b"[modlin, {use: lowrank, depth: x}, no]"
    ),
    # values out of bounds
    "a value too small": edit_recipe("steps: 2000", "steps: 0"),
    "a value too large": with_all_option_types("numbers: [1, 2, 1000]"),
    "not a number": edit_recipe("lr: 3.0e-3", "lr: .nan"),
    "an infinite number": edit_recipe("lr: 3.0e-3", "lr: -.inf"),
    "a number that becomes infinite": edit_recipe("lr: 3.0e-3", "lr: 1e400"),
    "a seed beyond its bound": edit_recipe("seed: 3", "seed: 9223372036854775808"),
    "a number beyond 64 bits": edit_recipe("seed: 3", f"seed: {'9' * 4000}"),
    "a bound inside of a list": edit_recipe("lr: 3.0e-3", "betas: [0.9, 1.0]"),
    # components
    "an unknown component": with_router("{use: kernle}"),
    "an unknown component by its bare name": with_router("kernle"),
    "a component that is code": with_router("{use: os.system}"),
    "a component that is a number": with_router("{use: 3}"),
    "a number for a component": with_router("3"),
    "a list for a component": with_router("[kernel]"),
    "no component": edit_recipe("data: digits", "data: {}"),
    "a misspelt use": edit_recipe("data: digits", "data: {usr: digits}"),
    "an unknown option": with_router("{use: kernel, truncaton: 1.0}"),
    "an option of another component": with_router("{use: top_k, k: 1, truncation: 1.0}"),
    "an option for a component without any": edit_recipe("data: digits", "data: {use: digits, folder: x}"),
    "a missing option": with_router("top_k"),
    "options that do not suit each other": edit_recipe("{lines: 1", "{heads: 3"),
    "an error in a component's component": edit_recipe("linear: modlin", "linear: {use: lowrank, depth: x}"),
    "a broken plugin": with_router("snapped"),
    "a broken plugin and a wrong key": edit_recipe("use: kernel", "use: snapped", "seed: 3", "sead: 3"),
    "a component that fails on its options": edit_recipe("{lines: 1, linear: modlin}", "faulty"),
    # scripts
    "no scripts": VALID_RECIPE.replace("  width", "  scripts: []\n  width").encode(),
    "scripts of the wrong type": VALID_RECIPE.replace("  width", "  scripts: {}\n  width").encode(),
    "a script that is not a mapping": VALID_RECIPE.replace("  width", "  scripts: [{}, 3, null]\n  width").encode(),
    "an unknown key in a script": VALID_RECIPE.replace("  width", "  scripts: [{}, {width: 3}]\n  width").encode(),
    "an error in a script": VALID_RECIPE.replace(
        "  width", "  scripts: [{}, {router: {truncation: x}}]\n  width"
    ).encode(),
    "errors that scripts inherit are reported once": VALID_RECIPE.replace(
        "  width", "  scripts: [{}, {}, {functions: x}]\n  width"
    )
    .replace("use: kernel", "use: snapped")
    .replace("code: 64", "code: 0")
    .replace("  type: 16\n", "")
    .replace("lines: 1", "line: 1")
    .encode(),
    "too many scripts": VALID_RECIPE.replace("  width", "  scripts: [\n" + "{},\n" * 1500 + "]\n  width").encode(),
    # DeepSpeed's own settings
    "DeepSpeed's settings for one process": VALID_RECIPE.encode() + b"engine:\n  deepspeed: {}\n",
    "DeepSpeed's settings in a file": VALID_RECIPE.encode() + b"engine: {use: zero, deepspeed: ds.json}\n",
    "DeepSpeed's old switch": with_deepspeed_engine("zero_optimization: true"),
    "DeepSpeed keys that the recipe sets": with_deepspeed_engine(
        "train_batch_size: 8\ngradient_accumulation_steps: 2\nbf16: {enabled: true}\ngradient_clipping: -1\n"
        "optimizer: {type: OneBitAdam}\nscheduler: {type: WarmupLR}\nsteps_per_print: 10\nwandb: {}\ncheckpoint: {}\n"
        "activation_checkpointing: {}\ndata_efficiency: {}\nzero_optimization: {stage: 3, leaf_module: {}}"
    ),
    "keys that were removed from DeepSpeed": with_deepspeed_engine(
        "amp: {}\nelasticity: {}\nnebula: {}\nsparse_attention: {}\nzero_optimization:\n  mics_shard_size: 8\n"
        "  allgather_partitions: true\n  cpu_offload: true"
    ),
    "misspelt DeepSpeed keys": with_deepspeed_engine(
        "zero_optimisation: {}\ngradient_cliping: 1\nworld_size: 2\n"
        "zero_optimization: {overlap_com: true, prefetch_bucket_size: 0, stge: 2}"
    ),
    "misplaced DeepSpeed keys": with_deepspeed_engine("reduce_bucket_size: 1000\naio: {nvme_path: /x, device: nvme}"),
    "values that DeepSpeed would accept": with_deepspeed_engine(
        "communication_data_type: FP16\nprescale_gradients: 1\nflops_profiler: {top_modules: 3}\n"
        "zero_optimization: {reduce_bucket_size: auto, allgather_bucket_size: 5e8, sub_group_size: 0, round_robin_gradients: 1}"
    ),
    "DeepSpeed settings that conflict with the stage": with_deepspeed_engine(
        "aio: {}\nprescale_gradients: true\ncomms_logger: {enabled: true, prof_ops: [all_reduce]}\n"
        "zero_optimization:\n  stage3_max_live_parameters: 0\n  allgather_bucket_size: 1001\n  offload_optimizer: {}"
    ),
    # all at once
    "everything at once": edit_recipe(
        "seed: 3", "seed: x", "width: 64", "width: 0", "steps", "stpes", "digits", "numbers"
    ),
    # extends
    "extends a file that is absent": edit_recipe("seed: 3", "extends: nowhere.yaml"),
    "extends an absolute path": edit_recipe("seed: 3", "extends: /etc/passwd"),
    "extends a path of another system": edit_recipe("seed: 3", "extends: C:\\recipes\\base.yaml"),
    "extends a folder": edit_recipe("seed: 3", "extends: ."),
    "extends nothing": edit_recipe("seed: 3", "extends:"),
    "extends a list": edit_recipe("seed: 3", "extends: [a.yaml, b.yaml]"),
    "an invalid extends hides missing keys": b"extends: 3\nseed: 4\n",
    "extends itself": edit_recipe("seed: 3", "extends: ./recipe.yaml"),
}

_OVERRIDES: dict[str, list[str]] = {
    "override without a value": ["train.steps"],
    "override with nothing after the equals sign": ["train.steps="],
    "override without a path": ["=3"],
    "override with an empty key": ["train..steps=3"],
    "override with a dot at the end": ["train.=3"],
    "override with a space": ["train.steps =3"],
    "override of an unknown key": ["train.stps=3"],
    "override with a wrong type": ["train.steps=abc"],
    "override with a wrong value inside": ["model.router={use: top_k, k: x}"],
    "override that is not YAML": ["model.router={use: top_k"],
    "override with an anchor": ["seed=&a 3"],
    "override with a key twice": ["model.router={use: top_k, use: kernel}"],
    "override of two lines": ["seed=3\nni: 2"],
    "override with a control character": ["seed=\x1b[31m"],
    "override with half a character": ["seed=\udcff"],
    "override through a number": ["seed.x.y=3"],
    "override of DeepSpeed's settings": [
        "engine.use=zero",
        "engine.deepspeed.zero_optimization.stage=3",
        "engine.deepspeed.zero_optimization.bucket=1",
        "engine.deepspeed.train_batch_size=8",
    ],
    "override of DeepSpeed's settings that conflicts with the stage": [
        "engine.use=zero",
        "engine.stage=3",
        "engine.deepspeed.zero_optimization.round_robin_gradients=true",
    ],
    "override through a list": ["model.input.image.x=3"],
    "override after the end of a list": ["model.input.image.3=8"],
    "override with a negative index": ["model.input.image.-1=8"],
    "override of an item in a value that is not a list": ["model.scripts.0.functions=8"],
    "override of keys that cannot be overridden": ["ni=2", "extends=a.yaml"],
    "override of the whole recipe with too deep a path": [".".join("a" * 40) + "=1"],
    "override that is too long": [f"seed='{'x' * 5000}'"],
    "override replaces a component and its options": ["model.router={use: top_k}"],
    "overrides, several of them wrong": ["seed", "train.steps=0", "train.btach=3", "data=nothing"],
}

RECIPE_ERROR_CASES: dict[str, RecipeErrorCase] = {name: (content, []) for name, content in _FILES.items()}
RECIPE_ERROR_CASES |= {name: (VALID_RECIPE.encode(), arguments) for name, arguments in _OVERRIDES.items()}
