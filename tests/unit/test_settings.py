"""Every config is a frozen, strict value with YAML, a schema and a hash; every mistake is one RecipeError."""

import json
import subprocess
import sys

import pytest
import yaml

from secateurs.data import DataSpec
from secateurs.errors import RecipeError
from secateurs.experiments.cells import Cell
from secateurs.experiments.exploration import Experiment, Exploration
from secateurs.models import ModelSpec
from secateurs.recipe import Recipe
from secateurs.settings import Settings
from secateurs.train.distillation import Distillation
from secateurs.train.training import Training

EXPERIMENT = Experiment(
    model=ModelSpec.parse("cls-transformer(dim=16, patch=2x4)"),
    data=DataSpec(limit_train=100, mean=(0.5,), std=(0.25,)),
    training=Training(epochs=3.0),
    recipe=Recipe(budget="sparsity(0.7)", schedule="cubic", skip=("*.bias", "no"), min_keep=0.1),
    seeds=(3, 1),
)
VALUES: list[Settings] = [
    EXPERIMENT,
    EXPERIMENT.model,
    EXPERIMENT.data,
    EXPERIMENT.training,
    EXPERIMENT.recipe,
    Exploration(experiment=EXPERIMENT, fine_tune=Training(epochs=0.5), sparsities=(0.5, 0.9), absolute_tau=0.3),
]
KINDS = [type(value) for value in VALUES]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_yaml_values_and_copies_are_the_same_value(value: Settings) -> None:
    kind = type(value)
    again = [kind.from_yaml(value.to_yaml()), kind(**value.values()), kind(**json.loads(json.dumps(value.values())))]
    for other in again:
        assert other == value
        assert other.hash == value.hash
        assert other.to_yaml() == value.to_yaml()
    assert list(yaml.safe_load(value.to_yaml())) == list(kind.model_fields), "fields in the order of the class"


@pytest.mark.parametrize("kind", [*KINDS, Cell], ids=lambda kind: kind.__name__)
def test_a_json_schema_is_published_and_names_every_field(kind: type[Settings]) -> None:
    schema = kind.model_json_schema()
    json.dumps(schema, allow_nan=False)
    body = schema["$defs"][kind.__name__] if "$ref" in schema else schema
    assert set(body["properties"]) == set(kind.model_fields)
    assert body["additionalProperties"] is False


def test_a_value_cannot_be_changed() -> None:
    training = Training()
    with pytest.raises(ValueError, match="frozen"):
        training.epochs = 2.0  # type: ignore[misc]


def test_the_hash_is_the_same_on_every_machine_and_follows_every_field() -> None:
    assert Training().hash == "bbc78451136b3a0b", "a new default or field of Training renames every cell ever run"
    code = "from secateurs.train.training import Training; print(Training(epochs=3, clip=1).hash)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert printed == Training(epochs=3.0, clip=1.0).hash
    changes = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.1, "rate": "constant"}
    changes |= {"warmup": 0.0, "epochs": 1.0, "batch_size": 8, "clip": 1.0, "revive": "forget"}
    changes |= {"rate_from": 0.5, "rate_to": 0.5, "precision": "bfloat16", "distill": Distillation()}
    changes |= {"shift": 2, "flip": True, "quantize": "int8", "sharpness": 0.5}
    assert set(changes) == set(Training.model_fields)
    hashes = {Training(**{key: value}).hash for key, value in changes.items()} | {Training().hash}
    assert len(hashes) == len(changes) + 1


def test_the_last_pattern_that_matches_counts_so_the_order_is_part_of_the_value() -> None:
    training = Training(quantize={"": "int4", "head.weight": "int8"})
    for again in (Training.from_yaml(training.to_yaml()), Training(**json.loads(json.dumps(training.values())))):
        assert again.quantize == training.quantize
        assert list(again.quantize) == ["", "head.weight"]
        assert again.hash == training.hash
    assert Training(quantize={"head.weight": "int8", "": "int4"}).hash != training.hash
    assert Training.from_yaml("quantize: {head.weight: int8}").is_quantized
    for wrong in ("int5", {"": "codebook:9"}):
        with pytest.raises(RecipeError, match="Values are exact, int8"):
            Training(quantize=wrong)


def test_equal_values_share_their_hash_even_across_zeros_of_two_signs() -> None:
    assert Training(clip=-0.0) == Training(clip=0.0)
    assert Training(clip=-0.0).hash == Training(clip=0.0).hash


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch: 3", r"Training: unknown key 'epoch'\. Did you mean 'epochs'\? Known: batch_size, "),
        ("epochs: many", r"Training: 'epochs': .*valid number; got 'many'"),
        ("batch_size: 3.0", r"Training: 'batch_size': .*valid integer; got 3\.0"),
        ("batch_size: true", r"'batch_size': .*valid integer; got True"),
        ("optimizer: adamv", r"'optimizer': .*'sgd', 'adam' or 'adamw'; got 'adamv'"),
        ("- 1", "Training: expected a YAML mapping of its fields, got list"),
        ("", "Training: expected a YAML mapping of its fields, got NoneType"),
        ("3: 4", "Training: expected a YAML mapping of its fields, got dict"),
        ("a: [", "Training: not YAML: "),
        ("!!python/object/apply:os.system ['true']", "Training: not YAML: could not determine a constructor"),
    ],
)
def test_a_mistake_in_yaml_is_one_line(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as told:
        Training.from_yaml(text)
    assert "\n" not in str(told.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(RecipeError, match=r"'epochs': .*unknown key 'batchsize'\. Did you mean 'batch_size'\?"):
        Training(epochs="x", batchsize=3)


def test_a_nested_mistake_suggests_the_keys_of_where_it_is() -> None:
    values = EXPERIMENT.values()
    values["training"]["epoch"] = values["training"].pop("epochs")
    with pytest.raises(RecipeError, match=r"unknown key '(training\.)?epoch'\. Did you mean 'epochs'\?"):
        Experiment(**values)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(RecipeError, match=r"Recipe: 'budget' is missing\."):
        Recipe()


def test_an_experiment_needs_seeds_that_differ() -> None:
    for seeds in ([], [1, 1], [-1], [0, 2**63]):
        with pytest.raises(RecipeError, match=r"seeds must be different numbers from 0 to 9223372036854775807; got \["):
            Experiment(**{**EXPERIMENT.values(), "seeds": seeds})


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"sparsities": [0.5, 1.0]}, r"sparsities must lie between 0 and 1; got \[0\.5, 1\.0\]"),
        ({"sparsities": []}, "sparsities must lie between 0 and 1"),
        ({"sparsities": [float("nan")]}, "sparsities"),
        ({"absolute_tau": -0.4}, r"threshold must be a number from 0\.0 .*; got -0\.4"),
        ({"absolute_tau": float("nan")}, "threshold must be a number .*; got nan"),
        ({"experiment": {**EXPERIMENT.values(), "recipe": {"budget": "top(2)", "pool": "4"}}}, "Use threshold"),
    ],
)
def test_an_exploration_that_cannot_mean_anything_is_refused(field: dict[str, object], message: str) -> None:
    values = {"experiment": EXPERIMENT.values(), "fine_tune": Training().values(), **field}
    with pytest.raises(RecipeError, match=message):
        Exploration(**values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs: 1.0\nepochs: 2.0", "Training: the key 'epochs' stands twice, again in line 2"),
        ("a: {b: 1, 'b': 2}", "the key 'b' stands twice"),
        ("epochs: 2001-99-99", "Training: not YAML: "),
        ("[" * 5000, "Training: not YAML: "),
        ("a: " + "x" * 1_000_000, "Training: 1,000,003 characters are no config"),
        (
            "{a0: &a0 [x, x], "
            + ", ".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(30))
            + "}",
            r"aliases \(\*\)",
        ),
        ("optimizer: &a [*a]", "Training: 'optimizer'"),
        ("epochs: &a [[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], [[[[1]]]]]", r"got \[\[1, .*\.\.\.\]"),
        ("min_keep: 0x" + "f" * 9999, "unknown key 'min_keep'"),
        ("batch_size: 0.0\nepochs: 0x" + "f" * 9999, "Training"),
    ],
)
def test_yaml_that_would_mislead_or_explode_is_one_short_error(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as told:
        Training.from_yaml(text)
    assert len(str(told.value)) < 2000


def test_an_alias_and_a_merge_are_plain_yaml() -> None:
    assert Training.from_yaml("<<: {epochs: 1.0, clip: 2.0}\nepochs: 3.0") == Training(epochs=3.0, clip=2.0)
    exploration = {"experiment": EXPERIMENT.values(), "fine_tune": Training(epochs=0.5).values()}
    exploration["experiment"]["training"] = exploration["fine_tune"]
    assert "*id001" in yaml.safe_dump(exploration)
    assert Exploration.from_yaml(yaml.safe_dump(exploration)) == Exploration(**exploration)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", ".1e-2", "1.e-3", "0.001", "1.0e-3"])
def test_powers_of_ten_are_numbers_however_they_are_written(text: str) -> None:
    assert Training.from_yaml(f"learning_rate: {text}").learning_rate == 1e-3


@pytest.mark.parametrize("text", ["1e5", "12e34", "+1e-3", "1.5e3"])
def test_a_text_that_looks_like_a_power_of_ten_stays_a_text(text: str) -> None:
    spec = DataSpec(source=text)
    assert DataSpec.from_yaml(spec.to_yaml()) == spec


def test_what_a_file_leaves_out_is_that_of_the_base() -> None:
    base = Training(learning_rate=0.5, epochs=3.0, distill=Distillation(hardness=0.1))
    found = Training.from_yaml("epochs: 1.0", base)
    assert found == Training(**{**base.values(), "epochs": 1.0})
    with pytest.raises(RecipeError, match="unknown key 'epoch'"):
        Training.from_yaml("epoch: 1.0", base)
