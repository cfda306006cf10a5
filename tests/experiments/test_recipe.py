"""Recipes: what is accepted, what is refused and in which words, and what makes two of them the same run."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.errors import RecipeError
from experiments.recipe import Recipe, RefineSettings, SearchSettings, TrainSettings, first_difference, load_recipe

RECIPES = Path(__file__).parents[2] / "experiments" / "recipes"
QUICKSTART = RECIPES / "quickstart.yaml"
FASHION = QUICKSTART.with_name("fashion_mnist.yaml")
SMALL = """
name: small
data: {dataset: digits, search: 300, verify: 400, report: 300}
space: {name: mbconv-small}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str, quick: bool = False) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides=overrides, quick=quick)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_every_shipped_recipe_is_valid_and_survives_its_own_yaml(path: Path, quick: bool, tmp_path: Path) -> None:
    recipe = load_recipe(path, quick=quick)
    again = load_recipe(written(tmp_path, recipe.to_yaml()))
    assert again == recipe
    assert again.fingerprint() == recipe.fingerprint()
    assert first_difference(recipe, again) is None


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_named_like_its_file(path: Path) -> None:
    assert load_recipe(path).name == path.stem
    assert load_recipe(path, quick=True).name == path.stem


@pytest.mark.parametrize("name", ["quickstart", "fashion_mnist"])
def test_the_recipes_that_errors_point_to_spell_out_every_key(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    recipe = load_recipe(path)
    document = yaml.safe_load(path.read_text())
    del document["quick"]
    assert document == yaml.safe_load(recipe.to_yaml())


def test_a_short_recipe_gets_the_default_of_every_section_it_leaves_out(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, SMALL))
    assert (recipe.train, recipe.search, recipe.refine) == (TrainSettings(), SearchSettings(), RefineSettings())
    assert (recipe.train.epochs, recipe.search.sampler, recipe.verify.protocol) == (40, "surrogate", "standard")
    assert recipe.model_name == "archsmith-small"


def test_quick_block_applies_only_when_asked_for_and_explicit_values_win() -> None:
    assert load_recipe(QUICKSTART).search.evaluations == 120
    assert load_recipe(QUICKSTART, quick=True).search.evaluations == 24
    assert load_recipe(QUICKSTART, quick=True, overrides=["search.evaluations=30"]).search.evaluations == 30


def test_a_quick_block_that_is_wrong_is_found_without_asking_for_it(tmp_path: Path) -> None:
    assert "quick: train.epoch: unknown key, did you mean train.epochs?" in refusal(
        written(tmp_path, SMALL + "quick: {train.epoch: 2}")
    )
    assert "with --quick has one problem:\n  train.epochs: got 0" in refusal(
        written(tmp_path, SMALL + "quick: {train.epochs: 0}")
    )
    assert "quick: got 3, expected dotted keys" in refusal(written(tmp_path, SMALL + "quick: 3"))


def test_overrides_are_yaml_scalars_lists_and_sections() -> None:
    recipe = load_recipe(
        QUICKSTART,
        overrides=[
            "space.settings.resolutions=[16, 24]",
            "search.limits.latency_ms=1e-1",
            "tracking.uri=sqlite:////somewhere/a=b",
            "train.learning_rate=1",
            "export.model_name=null",
            "verify={candidates: 9}",
        ],
    )
    assert recipe.space.settings["resolutions"] == [16, 24]
    assert recipe.search.limits.latency_ms == pytest.approx(0.1)
    assert recipe.tracking.uri == "sqlite:////somewhere/a=b"
    assert recipe.train.learning_rate == 1.0
    assert recipe.export.model_name is None
    assert recipe.verify.candidates == 9


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.epochs=ten", "train.epochs: got 'ten', expected an integer >= 1"),
        (
            "devices=[{id: onnxruntime-cpu}]",
            "devices: got ['onnxruntime-cpu'] beside 'onnxruntime-cpu', expected every",
        ),
        ("devices=[{id: a}, {id: a}]", "devices: got ['a', 'a'] beside 'onnxruntime-cpu', expected every device once"),
        ("devices=[{name: a}]", "devices.0.name: unknown key"),
        ("devices=openvino-cpu", "devices: got 'openvino-cpu', expected"),
        ("train.epochs=0", "train.epochs: got 0, expected an integer >= 1"),
        ("train.epochs=true", "train.epochs: got True, expected an integer"),
        ("train.epochs=3.0", "train.epochs: got 3.0, expected an integer"),
        ("train.epochs=null", "train.epochs: got null, expected an integer"),
        ("train.learning_rate=.nan", "train.learning_rate: got nan, expected a number > 0"),
        ("train.learning_rate=.inf", "train.learning_rate: got inf, expected a number > 0"),
        ("train.epoch=1", "train.epoch: unknown key, did you mean train.epochs?"),
        ("epochs=1", "epochs: unknown key, did you mean train.epochs?"),
        ("data.zzz=1", "data.zzz: unknown key; known here: augmentation, channels, dataset, image_size, "),
        ("train.epochs.x=1", "train.epochs.x: unknown key"),
        ("=1", "got '=1', expected key=value"),
        ("nothing", "got 'nothing', expected key=value"),
        ("train.epochs=[", "--set train.epochs is not valid YAML"),
        ("space.settings.resolutions=[16, x]", "space.settings: resolutions must be ascending"),
        ("space.settings.resolutions=[20, 16]", "got [20, 16]"),
        ("space.settings.depht=2", "space 'mbconv-small' has no setting 'depht'; its settings are: "),
        ("space.settings=[16]", "space.settings: got [16], expected a mapping of the space's settings"),
        ("space.name=mbconv-smal", "space.name: unknown search space 'mbconv-smal'; did you mean 'mbconv-small'?"),
        ("data=3", "data: got 3, expected a mapping"),
        ("data.dataset=cifar", "data.dataset: unknown data set 'cifar'; known: "),
        ("data.report=all", "data.report: got 'all', expected an integer >= 1 and <= 1,000,000 or 'official'"),
        ("data.report=official", "data.report: got 'official', but digits has no test set of its own"),
        (
            "search.sampler=grid",
            "search.sampler: got 'grid', expected one of 'surrogate', 'mnasnet', 'ofa-evolution', 'gradient', ",
        ),
        ("search.early_stopping=1", "search.early_stopping: got 1, expected a number from 0.5 to below 1, for example"),
        ("search.candidates=both", "search.candidates: got 'both', expected one of 'inherit', 'train'"),
        ("search.gpus_per_trial=-1", "search.gpus_per_trial: got -1, expected a number >= 0"),
        ("search.gpus_per_trial=1.5", "search.gpus_per_trial: got 1.5, expected a share of 1 or a whole number"),
        ("search.limits.params=0", "search.limits.params: got 0, expected a number > 0 or null"),
        ("search.limits.latency_ms=-1", "search.limits.latency_ms: got -1, expected a number > 0 or null"),
        ("profile.fit=110", "profile.max_measured: got 120, expected an integer >= fit + held_out = 110 + 16"),
        ("export.formats=[onnx, tflite]", "export.formats[1]: got 'tflite', expected one of 'onnx', 'openvino', "),
        ("export.formats=[onnx-int4]", "export.formats[0]: got 'onnx-int4', expected one of "),
        ("export.formats=onnx", "export.formats: got 'onnx', expected a list, each item one of 'onnx', "),
        ("export.alias=latest", "export.alias: got 'latest', expected an alias other than"),
        ("export.alias=V2", "export.alias: got 'V2', expected an alias other than"),
        ("export.alias=a b", "export.alias: got 'a b', expected letters, digits, - and _"),
        ("tracking.uri=./mlruns", "tracking.uri: got './mlruns', expected http://"),
        ("name=../escape", "name: got '../escape', expected letters, digits"),
        ("seed=-1", "seed: got -1, expected an integer >= 0"),
        ("train={epocs: 3}", "train.epocs: unknown key, did you mean train.epochs?"),
        ("train={3: 3}", "train.3: unknown key"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(override: str, words: str) -> None:
    message = refusal(QUICKSTART, override)
    assert words in message
    assert "pydantic" not in message


def test_answers_cannot_be_compared_image_by_image_for_other_metrics() -> None:
    changes = ["data.metric=macro-f1", "search.early_stopping=0.95"]
    with pytest.raises(RecipeError, match=r"search\.early_stopping: got 0\.95, expected null: .* macro-f1"):
        load_recipe(QUICKSTART, overrides=changes)
    trained = load_recipe(QUICKSTART, overrides=[*changes, "search.candidates=train"])
    assert trained.search.early_stopping == 0.95


@pytest.mark.parametrize("formats", [[], ["onnx-int8"], ["litert", "executorch-int8", "openvino", "openvino-int8"]])
def test_formats_of_further_files_are_named_with_their_precision(formats: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(QUICKSTART, overrides=[f"export.formats={formats}"])
    assert recipe.export.formats == tuple(formats)
    assert load_recipe(written(tmp_path, recipe.to_yaml())) == recipe


def test_all_problems_are_listed_at_once(tmp_path: Path) -> None:
    text = "name: [1]\nspase: {}\ndata: {dataset: digits, search: x, verify: 1}\nspace: {name: mbconv-small}\n"
    message = refusal(written(tmp_path, text))
    assert "has 4 problems" in message
    assert "name: got [1], expected letters, digits" in message
    assert "data.search: got 'x', expected an integer" in message
    assert "data.report: missing, expected an integer" in message
    assert "spase: unknown key, did you mean space?" in message


def test_a_very_long_value_is_shortened_in_the_message(tmp_path: Path) -> None:
    assert len(refusal(written(tmp_path, SMALL + f"seed: {'x' * 5000}"))) < 500


def test_a_repeated_key_is_refused_with_its_line(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, SMALL + "train: {epochs: 1, epochs: 2}\n"))
    assert "line 5" in message
    assert "'epochs' is there twice" in message
    assert "'name' is there twice" in refusal(written(tmp_path, SMALL + "name: other\n"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "holds nothing"),
        (b"# only a comment\n", "holds nothing"),
        (b"- a\n- b\n", "holds a list"),
        (b"just words", "holds a str"),
        (b"a: b: c", "not valid YAML: line 1"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "not UTF-8"),
        (b"name: a\x00b", "not valid YAML"),
        ("name: x".encode("utf-16"), "not UTF-8"),
        (b"1: 2\n", "got the key 1, expected a text"),
        (b"!!python/object/apply:os.system [exit]", "not valid YAML"),
        (b"[" * 20_000, "not valid YAML: nested too deeply"),
        (b"when: 2001-99-99", "not valid YAML"),
        (b"#" * 1_000_001, "not a recipe"),
        (b"name: a\n---\nname: b\n", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_in_one_sentence(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(data)
    message = refusal(path)
    assert words in message
    assert "recipe.yaml" in message


def test_missing_file_and_directory_are_told_apart(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "absent.yaml")
    assert "is a directory" in refusal(tmp_path)
    assert "cannot be read" in refusal(Path("bad\0name"))


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.encode())
    assert load_recipe(path).name == "small"


def test_numbers_with_an_exponent_and_no_point_are_numbers(tmp_path: Path) -> None:
    assert load_recipe(written(tmp_path, SMALL + "train: {weight_decay: 1e-3}")).train.weight_decay == 1e-3


def test_operational_fields_do_not_make_another_run() -> None:
    recipe = load_recipe(FASHION)
    moved = load_recipe(
        FASHION,
        overrides=[
            "search.workers=1",
            "refine.workers=1",
            "tracking.uri=http://host:5000",
            "data.path=/data",
            "devices=[{id: openvino-cpu}]",
        ],
    )
    assert moved != recipe
    assert moved.fingerprint() == recipe.fingerprint()
    assert first_difference(recipe, moved) is None


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        ("train.epochs=2", "train.epochs: 40 against 2"),
        (
            "space.settings.resolutions=[16]",
            'space.settings: {"resolutions": [16, 20, 24], "width": 0.25} against {"resolutions": [16], "width": 0.25}',
        ),
        ("search.limits.latency_ms=0.5", "search.limits.latency_ms: null against 0.5"),
        ("name=other", 'name: "quickstart" against "other"'),
        ("train.workers=2", "train.workers: 1 against 2"),
    ],
)
def test_the_first_difference_is_named_with_both_values(override: str, difference: str) -> None:
    one, other = load_recipe(QUICKSTART), load_recipe(QUICKSTART, overrides=[override])
    assert first_difference(one, other) == difference
    assert one.fingerprint() != other.fingerprint()


def test_a_recipe_cannot_be_changed() -> None:
    recipe = load_recipe(QUICKSTART)
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.epochs = 3


def test_every_field_says_what_it_means() -> None:
    def sections(model: object) -> list[type]:
        return [] if not isinstance(model, type) or not hasattr(model, "model_fields") else [model]

    def check(model: type[Recipe]) -> None:
        for name, field in model.model_fields.items():
            inner = sections(field.annotation)
            assert inner or field.description, f"{model.__name__}.{name}"
            for section in inner:
                check(section)

    check(Recipe)


@given(
    epochs=st.integers(1, 1000),
    rate=st.floats(1e-9, 100, exclude_min=True),
    seed=st.integers(0, 2**32 - 1),
    latency=st.none() | st.floats(1e-6, 1e6),
)
def test_any_valid_recipe_survives_its_own_yaml(
    tmp_path_factory: pytest.TempPathFactory, epochs: int, rate: float, seed: int, latency: float | None
) -> None:
    document = yaml.safe_load(SMALL) | {
        "seed": seed,
        "train": {"epochs": epochs, "learning_rate": rate},
        "search": {"limits": {"latency_ms": latency}},
    }
    recipe = Recipe.model_validate(document)
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert load_recipe(path) == recipe


def test_reading_a_recipe_does_not_import_torch_or_any_server() -> None:
    code = (
        "import sys, experiments.recipe as r; r.load_recipe(sys.argv[1]);"
        "sys.exit(', '.join(sorted({'torch', 'mlflow', 'ray', 'optuna', 'pandas'} & set(sys.modules))) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(QUICKSTART)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
