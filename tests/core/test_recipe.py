from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from irepdeploy.errors import InputError, RecipeError
from irepdeploy.recipe import Recipe, load_recipe

MINIMAL: dict[str, Any] = {
    "net": {"name": "vgg6"},
    "data": {"name": "digits"},
    "search": {
        "population": 4,
        "warmup_epochs": 1,
        "evolutions": 1,
        "epochs_per_evolution": 1,
        "subnets_per_step": 2,
        "batch_size": 8,
        "weights": {"lr": 0.1},
    },
    "train": {"epochs": 2, "batch_size": 8, "weights": {"lr": 0.05}},
    "scales": {"smoke": {"search.population": 2, "epochs": 1, "data.options.train": 9}},
}


def written(tmp_path: Path, content: str | bytes | None = None, **changes: Any) -> Path:
    path = tmp_path / "mine.yaml"
    if content is None:
        content = yaml.safe_dump({**MINIMAL, **changes})
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.line
    return caught.value.line


def test_defaults_are_the_papers_where_it_gives_them(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path))
    assert recipe.branches == "ireps"
    assert (recipe.search.strategy, recipe.search.budget) == ("des", "2/3")
    assert (recipe.search.crossover, recipe.search.mutation) == (0.5, 0.5)
    assert (recipe.search.arch.lr, recipe.search.arch.betas) == (1e-4, (0.5, 0.999))
    assert recipe.search.clamp is True
    assert (recipe.seed, recipe.threads) == (0, None)


def test_overrides_by_full_and_by_bare_name(tmp_path: Path) -> None:
    overrides = ["search.population=7", "epochs=3", "arch.lr=1e-3", "net.args.bias=true", "budget=1/2", "clip="]
    recipe = load_recipe(written(tmp_path), [*overrides[:-1], "search.weights.clip=null"])
    assert recipe.search.population == 7
    assert recipe.train.epochs == 3
    assert recipe.search.arch.lr == 1e-3
    assert recipe.net.args == {"bias": True}
    assert recipe.search.budget == "1/2"
    assert recipe.search.weights.clip is None


def test_a_value_that_is_replaced_is_checked_too(tmp_path: Path) -> None:
    path = written(tmp_path, train={"epochs": -2, "batch_size": 8, "weights": {"lr": 0.05}})
    assert "train.epochs: expected" in refused(path, "scale=smoke") and "got -2" in refused(path, "epochs=3")
    # Missing keys may be given by overrides.
    rest = {key: value for key, value in MINIMAL.items() if key != "net"}
    assert load_recipe(written(tmp_path, yaml.safe_dump(rest)), ["net.name=vgg6"]).net.name == "vgg6"


def test_the_last_of_two_overrides_wins(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path), ["seed=1", "seed=2"]).seed == 2


def test_a_scale_is_applied_before_single_overrides_wherever_it_stands(tmp_path: Path) -> None:
    path = written(tmp_path)
    for overrides in (["scale=smoke", "population=3"], ["population=3", "scale=smoke"]):
        recipe = load_recipe(path, overrides)
        assert (recipe.search.population, recipe.train.epochs) == (3, 1)
        assert recipe.data.options == {"train": 9}
    assert load_recipe(path).search.population == 4


def test_a_value_may_hold_an_equals_sign(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path), ["data.options.folder=a=b"]).data.options == {"folder": "a=b"}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("lr=1", "'lr' is ambiguous (one of search.weights.lr, search.arch.lr, train.weights.lr)"),
        ("batch_size=4", "ambiguous"),
        ("weights.lr=1", "ambiguous"),
        ("population", "expected key=value, got 'population'"),
        ("=3", "expected key=value, got '=3'"),
        ("", "expected key=value, got ''"),
        ("searhc.population=4", "did you mean search.population"),
        ("zzz=1", "the sections are net, branches, data"),
        ("seed=[1", "is not a value"),
        ("seed=2026-13-45", "seed: expected a valid integer, got '2026-13-45'"),
        ("seed=!!int ''", "is not a value"),
        ("seed=!!bool maybe", "is not a value"),
        ("seed=!!timestamp later", "tag 'timestamp' is not allowed in a recipe"),
        ("seed=!!python/object/apply:os.getcwd []", "is not a value"),
        ("seed=" + "[" * 5000, "is not a value"),
        ("scale=huge", "unknown scale 'huge' (one of smoke)"),
        ("scale=[1]", "unknown scale [1]"),
        ("scale={a: 1}", "unknown scale"),
        ("search.population.more=1", "unknown key"),
        ("net=vgg6", "net: expected"),
        ("search=null", "search: expected"),
        ("net.args=null", "net.args: expected"),
        ("net.args.a.b.c=1", ""),
    ],
)
def test_overrides_that_are_wrong(override: str, said: str, tmp_path: Path) -> None:
    if said:
        assert said in refused(written(tmp_path), override)
    else:
        assert load_recipe(written(tmp_path), [override]).net.args == {"a": {"b": {"c": 1}}}


def test_a_scale_of_a_recipe_without_scales(tmp_path: Path) -> None:
    found = load_recipe(written(tmp_path, scales={}), ["scale=smoke", "train.epochs=3"])
    assert (found.search.population, found.search.evolutions, found.train.epochs, found.train.warmup_epochs) == (
        3,
        2,
        3,
        0,
    )
    assert "unknown scale 'tiny' (one of smoke)" in refused(written(tmp_path, scales={}), "scale=tiny")


def test_an_override_below_a_null_section(tmp_path: Path) -> None:
    assert "'search' has no keys" in refused(written(tmp_path, search=None), "search.population=4")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("seed=-1", "seed"),
        ("seed=1.5", "seed"),
        ("seed=true", "seed"),
        ("seed='1'", "seed"),
        ("seed=99999999999999999999", "seed"),
        ("threads=0", "threads"),
        ("threads=1000000", "threads"),
        ("search.population=1", "search.population"),
        ("search.population=.inf", "search.population"),
        ("search.batch_size=1", "search.batch_size"),
        ("search.weights.lr=0", "search.weights.lr"),
        ("search.weights.lr=.nan", "search.weights.lr"),
        ("search.weights.lr=.inf", "search.weights.lr"),
        ("search.weights.momentum=1.1", "search.weights.momentum"),
        ("search.weights.momentum=.nan", "search.weights.momentum"),
        ("search.weights.weight_decay=.inf", "search.weights.weight_decay"),
        ("search.weights.weight_decay=.nan", "search.weights.weight_decay"),
        ("train.weights.clip=0", "train.weights.clip"),
        ("arch.betas=[0.5]", "search.arch.betas"),
        ("arch.betas=[0.5, 1]", "search.arch.betas"),
        ("search.crossover=.nan", "search.crossover"),
        ("search.parents=2", "search.parents"),
        ("strategy=descent", "search.strategy"),
        ("factors=both", "train.factors"),
        ("train.epochs=eight", "train.epochs"),
        ("branches=[conv1x3]", "branches"),
        ("clamp=perhaps", "search.clamp"),
        ("train.epochs=1000000000", "train.epochs"),
        ("search.batch_size=1000000000", "search.batch_size"),
        ("train.augment.crop=-1", "train.augment.crop"),
        ("train.augment.randaugment=1.5", "train.augment.randaugment"),
        ("train.augment.magnitude=31", "train.augment.magnitude"),
        ("search.augment.hue=0.6", "search.augment.hue"),
        ("train.augment.mixup=.nan", "train.augment.mixup"),
        ("search.weights.lr=-0.1", "search.weights.lr"),
        ("budget=1e-999999999", "search.budget"),
        ("budget=1/0", "search.budget"),
        ("budget=" + "9" * 5000 + "/block", "search.budget"),
        ("budget=0/block", "search.budget"),
        ("budget=-1/2", "search.budget"),
        ("budget=3/2", "search.budget"),
        ("net.name=1", "net.name"),
        ("net.args.x=.nan", "net.args: expected finite numbers, got nan"),
        ("data.options.x=[1, -.inf]", "data.options: expected finite numbers, got -inf"),
        ("net.args.x=1" + "0" * 30, "net.args: expected numbers of at most 64 bits"),
        ("scales.x.y=.inf", "scales.x: expected finite numbers, got inf"),
    ],
)
def test_values_that_no_run_could_use(override: str, key: str, tmp_path: Path) -> None:
    line = refused(written(tmp_path), override)
    assert line.startswith("mine.yaml with ") and f": {key}" in line


def test_parents_and_offspring_are_at_most_the_population(tmp_path: Path) -> None:
    line = refused(written(tmp_path), "parents=0.6", "offspring=0.5")
    assert "parents=0.6 and offspring=0.5 add up to more than the whole population" in line
    assert load_recipe(written(tmp_path), ["parents=0.3", "offspring=0.7"]).search.parents == 0.3


def test_unknown_keys_suggest_the_near_one(tmp_path: Path) -> None:
    path = written(tmp_path, search={**MINIMAL["search"], "populaton": 3})
    assert "search.populaton: unknown key (did you mean population?)" in refused(path)
    assert "wibble: unknown key" in refused(written(tmp_path, wibble=1))


def test_the_place_of_a_fault_is_the_file_or_the_override(tmp_path: Path) -> None:
    good = written(tmp_path)
    assert refused(good, "search.budgt=1").startswith(f"{good.name} with search.budgt=1: unknown key 'search.budgt'")
    assert refused(good, "seed=x", "epochs=0").startswith(f"{good.name} with these overrides: ")
    assert refused(written(tmp_path, wibble=1), "search.budgt=1").startswith(f"{good.name}: ")
    assert refused(written(tmp_path, seed=None), "search.population=4").startswith(f"{good.name}: ")


def test_all_faults_are_said_in_one_line(tmp_path: Path) -> None:
    train = {"epochs": 0, "weights": {"lr": "fast"}}
    line = refused(written(tmp_path, seed="x", train=train, colour="red"), "nonsense=1", "alone")
    for fault in ("seed:", "train.epochs:", "train.weights.lr:", "colour: unknown key"):
        assert fault in line
    assert "'nonsense'" in line
    assert "'alone'" in line


@pytest.mark.parametrize("section", ["net", "data", "search", "train", "scales"])
def test_null_sections(section: str, tmp_path: Path) -> None:
    assert f"{section}: expected" in refused(written(tmp_path, **{section: None}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "a recipe is a mapping"),
        (b"# nothing\n", "a recipe is a mapping"),
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"just text", "a recipe is a mapping"),
        (b"net: [1\nx: 2", "mine.yaml:2: not YAML"),
        (b"a: b: c", "mine.yaml:1: not YAML"),
        (b"\xff\xfe\x00", "not YAML"),
        (b"a: \x00", "not YAML"),
        (b"a: *nobody", "not YAML"),
        (b"a: 2026-99-99", "a: unknown key"),
        (
            b"a: !!python/object/apply:os.system ['true']",
            "tag 'python/object/apply:os.system' is not allowed in a recipe",
        ),
        (b"[" * 3_000, "mine.yaml:1: nested too deeply: a recipe has at most 100 levels"),
        (b"- " * 3_000 + b"1", "nested too deeply"),
        (b"&a [*a]", "aliases"),
        (b"a: &a {b: *a}", "aliases"),
        (b"{}", "net is missing"),
        (b"1: 2", "mine.yaml:1: expected a key that is text, got 1"),
        (b"on: 2\n? [a]\n: 3", "mine.yaml:2: expected a key that is text, got a list or mapping"),
        (b"seed: 1\nnet: {}\nseed: 2", "mine.yaml:3: key 'seed' occurs twice: on lines 1 and 3"),
        (b"search: {population: 1,\n  population: 2}", "mine.yaml:2: key 'population' occurs twice: on lines 1 and 2"),
        (b"a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a", "mine.yaml:4: key '<<' occurs twice"),
        (b"seed: 1\n---\nseed: 2", "mine.yaml:2: not YAML: but found another document"),
        (b"net:\n\tname: vgg6", "mine.yaml:2: not YAML"),
        (b'branches: "a\\e[31m"', "mine.yaml:1: text contains the control character U+001B"),
        (b'"a\\0": 1', "mine.yaml:1: text contains the control character U+0000"),
        (b"a: !!set {b}", "tag 'set' is not allowed in a recipe"),
        (b"a: !mine 1", "tag '!mine' is not allowed in a recipe"),
        ("seed: 1".encode("utf-16"), "not YAML: not UTF-8"),
        (b"# nothing\n" * 50_000, "expected at most 256 KiB"),
    ],
)
def test_files_that_are_no_recipe(content: bytes, said: str, tmp_path: Path) -> None:
    assert said in refused(written(tmp_path, content))


def bomb(levels: int, kind: str) -> str:
    """Nine aliases of the previous level on each level: 9^levels values from a few lines."""
    lines = ["l0: &l0 [lol, lol]" if kind == "list" else "l0: &l0 {a: lol}"]
    for level in range(1, levels):
        inner = [f"*l{level - 1}"] * 9
        items = ", ".join(inner if kind == "list" else (f"k{i}: {alias}" for i, alias in enumerate(inner)))
        lines.append(f"l{level}: &l{level} " + (f"[{items}]" if kind == "list" else f"{{{items}}}"))
    return "\n".join(lines)


def test_a_bomb_of_merge_keys_does_not_go_off(tmp_path: Path) -> None:
    lines = ["l0: &l0 {a: 1}"]
    lines += [f"l{level}: &l{level} {{<<: [{', '.join([f'*l{level - 1}'] * 9)}]}}" for level in range(1, 25)]
    assert "aliases expand to more than 10000 values" in refused(written(tmp_path, "\n".join(lines)))


@pytest.mark.parametrize("kind", ["list", "dict"])
def test_a_yaml_bomb_does_not_go_off(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, bomb(25, kind))
    assert "aliases expand to more than 10000 values" in refused(path)


def test_anchors_and_merge_keys_work_and_are_not_shared(tmp_path: Path) -> None:
    text = yaml.safe_dump({key: value for key, value in MINIMAL.items() if key not in ("search", "train", "scales")})
    text += """
search: {population: 4, warmup_epochs: 1, evolutions: 1, epochs_per_evolution: 1, subnets_per_step: 2,
         batch_size: 8, weights: &weights {lr: 0.1}}
train: {epochs: 2, batch_size: 8, weights: *weights}
"""
    recipe = load_recipe(written(tmp_path, text), ["search.weights.lr=0.2"])
    assert (recipe.search.weights.lr, recipe.train.weights.lr) == (0.2, 0.1)


def test_a_merged_key_may_be_given_again(tmp_path: Path) -> None:
    text = yaml.safe_dump(MINIMAL).replace("train:\n  ", "train:\n  <<: {epochs: 9, schedule: step}\n  ", 1)
    recipe = load_recipe(written(tmp_path, text))
    assert (recipe.train.epochs, recipe.train.schedule) == (2, "step")


@pytest.mark.parametrize(
    ("written_as", "read_as"),
    [
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("true", True),
        ("12:30", "12:30"),
        ("2026-01-02", "2026-01-02"),
        ("010", "010"),
        ("1_000", "1_000"),
        ("0x10", 16),
        ("1e3", 1000.0),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("=", "="),
        ("~", None),
        ("", None),
        ("!!str 1", "1"),
    ],
)
def test_values_are_what_they_look_like(written_as: str, read_as: object, tmp_path: Path) -> None:
    found = load_recipe(written(tmp_path), [f"net.args.x={written_as}"]).net.args["x"]
    assert found == read_as and type(found) is type(read_as)


def test_words_for_true_and_false_where_one_is_expected(tmp_path: Path) -> None:
    found = [load_recipe(written(tmp_path), [f"clamp={word}"]).search.clamp for word in ("yes", "on", "no", "off")]
    assert found == [True, True, False, False]


def test_a_long_value_is_not_printed_whole(tmp_path: Path) -> None:
    assert len(refused(written(tmp_path, seed="x" * 100_000))) < 300


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = written(tmp_path, b"\xef\xbb\xbf" + yaml.safe_dump(MINIMAL).encode())
    assert isinstance(load_recipe(path), Recipe)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "none.yaml" / "deeper"):
        with pytest.raises(InputError) as caught:
            load_recipe(path)
        assert str(path) in caught.value.line


def test_a_recipe_survives_the_journal(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path), ["scale=smoke"])
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_a_number_too_long_to_write_is_refused_in_one_line(tmp_path: Path) -> None:
    content = yaml.safe_dump({**MINIMAL, "seed": 1}).replace("seed: 1", "seed: 0x" + "f" * 5000)
    assert "seed" in refused(written(tmp_path, content))


def test_a_population_that_no_machine_holds_is_refused(tmp_path: Path) -> None:
    assert "search.population" in refused(written(tmp_path), "search.population=1000000000")


@pytest.mark.parametrize("key", ["search.weights.lr", "search.arch.lr", "train.weights.weight_decay"])
def test_numbers_beyond_float32_are_refused(key: str, tmp_path: Path) -> None:
    assert f"{key}: expected less than or equal to" in refused(written(tmp_path), f"{key}=1e300")
